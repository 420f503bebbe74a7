"""Weights that a file keeps as a direction and a length: grown as plain weights, written as they came."""

import pytest

pytest.importorskip("transformers")

import torch
import transformers
from safetensors.torch import load_file, save_file

from growtool import grow, open_checkpoint
from growtool.library.transformers.weight_norm import combining, make_plain, separating
from tests.support.transformers_families import FAMILIES

WIDER = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
G, V = "parametrizations.weight.original0", "parametrizations.weight.original1"
CONV = "wav2vec2.encoder.pos_conv_embed.conv"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A Wav2Vec2 as transformers saves it, every number random."""
    torch.manual_seed(0)
    kind, _, sizes = FAMILIES["wav2vec2"]
    model = transformers.Wav2Vec2ForCTC(transformers.AutoConfig.for_model(kind, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    out = tmp_path_factory.mktemp("source") / "speech"
    model.save_pretrained(out)
    return out


def said(folder) -> torch.Tensor:
    """The logits of what transformers alone loads."""
    model, info = transformers.Wav2Vec2ForCTC.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        return model.eval()(torch.randn(2, 2000, generator=torch.Generator().manual_seed(1))).logits


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max())


def test_transformers_loads_what_was_grown(place, tmp_path):
    grow(place, WIDER, tmp_path / "grown")
    assert apart(said(place), said(tmp_path / "grown")) < 1e-5
    before, after = (load_file(folder / "model.safetensors") for folder in (place, tmp_path / "grown"))
    assert before.keys() == after.keys()
    rows, columns, kernel = before[f"{CONV}.{V}"].shape
    assert after[f"{CONV}.{V}"].shape == (2 * rows, 2 * columns, kernel)
    torch.testing.assert_close(after[f"{CONV}.{G}"], after[f"{CONV}.{V}"].norm(dim=(0, 1), keepdim=True))


def test_names_of_before_are_kept(place, tmp_path):
    """torch has called both parts otherwise; transformers reads these names still."""
    old = tmp_path / "old"
    old.mkdir()
    names = {f"{CONV}.{G}": f"{CONV}.weight_g", f"{CONV}.{V}": f"{CONV}.weight_v"}
    tensors = load_file(place / "model.safetensors")
    save_file({names.get(n, n): t for n, t in tensors.items()}, old / "model.safetensors", metadata={"format": "pt"})
    (old / "config.json").write_bytes((place / "config.json").read_bytes())
    grow(old, WIDER, tmp_path / "grown")
    assert set(names.values()) <= load_file(tmp_path / "grown" / "model.safetensors").keys()
    assert apart(said(place), said(tmp_path / "grown")) < 1e-5


@pytest.mark.parametrize("with_head", [False, True])
def test_the_name_of_the_base_model_may_come_and_go(place, tmp_path, with_head):
    """A base model reads what was saved with a head, and a model with a head what was saved of its base model."""
    model, source = transformers.Wav2Vec2ForCTC.from_pretrained(place), tmp_path / "source"
    held = model if with_head else model.wav2vec2
    held.save_pretrained(source)
    state = load_file(source / "model.safetensors")
    renamed = {name: name.removeprefix("wav2vec2.") if with_head else f"wav2vec2.{name}" for name in state}
    state = {renamed[name]: tensor for name, tensor in state.items()}
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    inner = {"intermediate_size": 2 * model.config.intermediate_size}
    grow(source, {"target": {"model_args": inner}, "width": "tile"}, tmp_path / "grown")
    x, outputs = torch.randn(2, 2000, generator=torch.Generator().manual_seed(1)), []
    for folder in (source, tmp_path / "grown"):
        loaded, info = type(held).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            outputs.append(loaded.eval()(x)[0])
    assert apart(*outputs) < 1e-5


def test_a_model_in_memory_has_its_norms_again(place, tmp_path):
    grown = grow(transformers.Wav2Vec2ForCTC.from_pretrained(place).eval(), WIDER)
    assert torch.nn.utils.parametrize.is_parametrized(grown.get_submodule(CONV), "weight")
    grown.save_pretrained(tmp_path / "saved")
    assert apart(said(place), said(tmp_path / "saved")) < 1e-5


def test_a_direction_is_made_a_weight_when_it_is_read(place):
    parts = load_file(place / "model.safetensors")
    g, v = parts[f"{CONV}.{G}"].double(), parts[f"{CONV}.{V}"].double()
    W = open_checkpoint(place).tensors
    assert f"{CONV}.{V}" in W
    expected = g * v / v.norm(dim=(0, 1), keepdim=True)
    layer = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(48, 12, 16), dim=2))
    make_plain(layer)
    ((name, conversion),) = combining(layer, {f"0.{G}": "g", f"0.{V}": "v"})
    torch.testing.assert_close(conversion.convert({"g": g, "v": v})[name], expected)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_parts_make_the_weight_they_were_made_of(dim):
    layer = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 6, 3).double(), dim=dim))
    before = layer[0].weight.detach().clone()
    make_plain(layer)
    torch.testing.assert_close(layer[0].weight, before)
    (apart,) = separating(layer, {"0.weight": ("g", "v")})
    parts = apart.convert({"0.weight": layer[0].weight.detach()})
    ((_, together),) = combining(layer, {f"0.{G}": "g", f"0.{V}": "v"})
    torch.testing.assert_close(together.convert(parts)["0.weight"], before)
