"""Checkpoints as others leave them: taken where timm takes them, and as it takes them."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file, save_model
from timm.models import register_model, save_for_hf
from torch import nn

from growtool.checkpoint import CONFIG, WEIGHTS, ModelSpec, open_checkpoint
from growtool.checkpoint.folder import loading_line, spare_source
from growtool.checkpoint.match import matched
from growtool.errors import PlanError
from growtool.finetune.update.model import load_model
from growtool.library import spec_from
from growtool.library.timm.loading import count_classes
from tests.support.foreign import assert_same, by_timm, edited, folder_of, refused
from tests.support.models import TINY, grown, randomise_

TWICE = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}


def without_counts(state):
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


TAKEN = {
    "ddp": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "compiled in ddp": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "ddp in compiled": lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
    "no counts of batches": without_counts,
    "neither": lambda state: {f"module.{name}": value for name, value in without_counts(state).items()},
}


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN.keys())
def test_what_timm_takes_as_it_is_grows_and_trains(tmp_path, change):
    source = folder_of("resnet", tmp_path / "source", change)
    timms = by_timm(source)
    assert_same(timms, open_checkpoint(source))
    trained = load_model(open_checkpoint(source))
    x = TINY["resnet"].inputs(dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(trained(x), timms(x))
    out = grown(source, TWICE, tmp_path / "out").out
    with torch.no_grad():
        torch.testing.assert_close(by_timm(out)(x), timms(x))


def test_names_that_differ_by_a_wrapper_alone_are_no_two_tensors_for_one(tmp_path):
    source = folder_of("resnet", tmp_path / "source", lambda state: {**state, "module.fc.bias": state["fc.bias"] + 1})
    assert "unexpected (1): module.fc.bias [5]" in refused(source)


class TiedMixer(nn.Module):
    """Two layers that share their weight."""

    def __init__(self, num_classes=4, dim=8, **kwargs):
        super().__init__()
        self.num_classes = self.num_features = num_classes
        self.stem = nn.Conv2d(3, dim, 8, 8)
        self.a, self.b = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.b.weight = self.a.weight
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        return self.head(self.b(self.a(x).relu()))


@register_model
def tied_mixer_of_tests(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    model = TiedMixer(**kwargs)
    model.pretrained_cfg = model.default_cfg = {"input_size": (3, 32, 32), "architecture": "tied_mixer_of_tests"}
    return model


@pytest.mark.parametrize("how", ["save_model", "one name", "both names"])
def test_a_tensor_that_the_model_shares_may_be_there_once(tmp_path, how):
    model, path = randomise_(TiedMixer()), tmp_path / "tied.safetensors"
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if how == "save_model":
        save_model(model, path)
        assert len(load_file(path)) == len(state) - 1
    else:
        save_file({n: v for n, v in state.items() if how == "both names" or n != "a.weight"}, path)
    checkpoint = open_checkpoint(path, architecture="tied_mixer_of_tests")
    assert_same(model, checkpoint)
    trained = load_model(checkpoint)
    assert trained.a.weight is trained.b.weight
    assert len(list(trained.parameters())) == len(list(model.parameters()))


def test_a_file_may_say_itself_which_name_it_kept(tmp_path):
    path = tmp_path / "lone.safetensors"
    state = timm.create_model("resnet18", **TINY["resnet"].args).state_dict()
    twin, kept = "layer1.1.bn1.weight", "layer1.0.bn1.weight"
    save_file({name: value for name, value in state.items() if name != twin}, path, {twin: kept})
    found = matched(open_checkpoint(path, architecture="resnet18", model_args=TINY["resnet"].args))
    assert torch.equal(found.read(twin), state[kept])


def test_different_numbers_for_a_shared_tensor_are_refused(tmp_path):
    path = tmp_path / "tied.safetensors"
    state = {name: value.clone() for name, value in TiedMixer().state_dict().items()}
    save_file({**state, "b.weight": state["b.weight"] + 1}, path)
    assert refused(path, architecture="tied_mixer_of_tests") == (
        f"{path}: found different numbers in a.weight, b.weight, which are one tensor that the model shares; keep one "
        "of them in the file"
    )


def old_swin(state):
    """Names and buffers of Swin files from before timm 0.9."""
    old = {name.replace("head.fc.", "head."): value for name, value in state.items()}
    old = {name.replace("layers.1.downsample", "layers.0.downsample"): value for name, value in old.items()}
    return old | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16)}


LOADED = {
    "position embedding": (
        "vit",
        lambda state: state,
        lambda c: c["model_args"].update(img_size=64) or c["pretrained_cfg"].update(input_size=[3, 64, 64]),
        ("resamples or cuts pos_embed from [1, 5, 8] to [1, 17, 8]",),
        {"pos_embed"},
    ),
    "old Swin": (
        "swin",
        old_swin,
        lambda c: None,
        (
            "renames layers.0.downsample.norm.weight to layers.1.downsample.norm.weight",
            "leaves out layers.0.blocks.0.attn.relative_position_index",
        ),
        set(),
    ),
    "label offset": (
        "resnet",
        lambda s: {**s, "fc.weight": torch.cat([s["fc.weight"][:1], s["fc.weight"]]),
                   "fc.bias": torch.cat([s["fc.bias"][:1], s["fc.bias"]])},
        lambda c: c["pretrained_cfg"].update(label_offset=1),
        ("resamples or cuts fc.weight from [6, 12] to [5, 12], fc.bias from [6] to [5]",),
        {"fc.weight", "fc.bias"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "config", "told", "made"), LOADED.values(), ids=LOADED.keys())
def test_what_timm_changes_while_loading_is_taken_as_timm_takes_it(tmp_path, kind, change, config, told, made):
    source = edited(folder_of(kind, tmp_path / "source", change), config)
    found = matched(open_checkpoint(source))
    assert [phrase for phrase in told if not any(phrase in f"{change}," for change in found.changes)] == []
    # what is renamed or reshaped stays in the file until it is read
    assert set(found.made) == made and {n for n in found.tensors if found.place_of(n) is None} == made
    assert_same(by_timm(source), open_checkpoint(source))
    out = grown(source, TWICE, tmp_path / "out").out
    x = by_timm(source).pretrained_cfg["input_size"]
    x = torch.randn(2, *x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(by_timm(out)(x), by_timm(source)(x), rtol=1e-4, atol=1e-4)
    assert "label_offset" not in json.loads((out / CONFIG).read_text())["pretrained_cfg"]


def test_a_library_that_looks_at_the_numbers_is_given_them(tmp_path, monkeypatch):
    """Where the names depend on values nothing is known before these are read; the result is the same."""
    from timm.models import swin_transformer

    original = swin_transformer.checkpoint_filter_fn

    def looks(state, model):
        assert float(state["norm.weight"].sum()) != 0
        return original(state, model)

    monkeypatch.setattr(swin_transformer, "checkpoint_filter_fn", looks)
    source = folder_of("swin", tmp_path / "source", old_swin)
    found = matched(open_checkpoint(source))
    assert not found.made and found.place_of("layers.1.downsample.norm.weight") is not None
    assert_same(by_timm(source), open_checkpoint(source))


def test_a_library_that_changes_numbers_in_place_is_believed_in_no_name(tmp_path, monkeypatch):
    from timm.models import swin_transformer

    original = swin_transformer.checkpoint_filter_fn

    def doubles(state, model):
        state["norm.weight"].mul_(2)
        return original(state, model)

    monkeypatch.setattr(swin_transformer, "checkpoint_filter_fn", doubles)
    source = folder_of("swin", tmp_path / "source", old_swin)
    assert_same(by_timm(source), open_checkpoint(source))


def test_a_flat_config_is_read_as_timm_reads_it(tmp_path):
    model = randomise_(timm.create_model("test_resnet", num_classes=4))
    save_for_hf(model, tmp_path / "old", safe_serialization=True)
    told = {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.5, "input_size": [3, 64, 64], "labels": ["a", "b", "c", "d"]}

    def flatten(config):
        flat = {**config.pop("pretrained_cfg"), **told, "architecture": "test_resnet", "num_classes": 4}
        config.clear()
        config.update(flat)

    source = edited(tmp_path / "old", flatten)
    spec = open_checkpoint(source).spec
    assert spec.label_names == ("a", "b", "c", "d") and count_classes(spec) == 4 and not spec.extra
    out, timms = grown(source, TWICE, tmp_path / "out").out, by_timm(source)
    for key in ("mean", "std", "crop_pct", "input_size", "label_names", "interpolation"):
        assert list(np.atleast_1d(by_timm(out).pretrained_cfg[key])) == list(np.atleast_1d(timms.pretrained_cfg[key]))


def test_a_config_without_pretrained_cfg_keeps_what_timm_does_not_know(tmp_path):
    config = {"architecture": "resnet18", "model_args": {"num_classes": 3}, "growtool": {"lineage": []}}
    spec = spec_from(config, where="x")
    assert spec == ModelSpec("resnet18", {"num_classes": 3}, {}, {"growtool": {"lineage": []}})


def test_a_link_into_a_cache_is_known_by_its_folder(tmp_path):
    source, blobs, snapshot = folder_of("resnet", tmp_path / "tmp"), tmp_path / "blobs", tmp_path / "snapshots/rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, name in enumerate((WEIGHTS, CONFIG)):
        (source / name).rename(blobs / f"f00{number}")
        (snapshot / name).symlink_to(f"../../blobs/f00{number}")
    checkpoint = open_checkpoint(snapshot)
    assert checkpoint.label == "rev"
    (tmp_path / "linked.safetensors").symlink_to(blobs / "f000")
    assert open_checkpoint(tmp_path / "linked.safetensors", architecture="resnet18").label == "linked"
    for place in (snapshot, snapshot.parent, blobs, blobs / "f000"):
        with pytest.raises(PlanError, match="holds the checkpoint itself"):
            spare_source(place, checkpoint)
    spare_source(tmp_path / "out", checkpoint)


@pytest.mark.parametrize("name", ["plain", 'it\'s "new" ü', "back\\slash", "new\nline", "a [b] {c}", "{'x'}"])
def test_the_loading_line_works_whatever_the_name(tmp_path, name):
    source = folder_of("resnet", tmp_path / name)
    model = eval(loading_line(source), {"timm": timm})
    assert_same(model, open_checkpoint(source))
