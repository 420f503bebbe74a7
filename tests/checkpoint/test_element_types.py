"""What checkpoints hold besides sound floating-point numbers: float8, integers, nan."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from growtool.checkpoint import WEIGHTS, open_checkpoint
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.update.model import load_model
from growtool.templates.convert import export_dense
from growtool.templates.decompose import Request
from growtool.templates.whole import decompose_checkpoint
from growtool.verify import Comparison
from tests.support.models import TINY, grown, resolved, write_folder

TWICE = {"target": {"scale": {"width": 2}}, "width": {"operator": "mixture"}}


def folder_with(folder: Path, change) -> Path:
    """A ViT in float32 whose state dict `change` has changed."""
    write_folder(TINY["vit"], folder, dtype=torch.float32)
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    return folder


def cast(dtype: torch.dtype):
    return lambda state: state.update({name: value.to(dtype) for name, value in state.items()})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_grows_into_a_type_with_digits_enough(tmp_path, dtype):
    source = folder_with(tmp_path / "eighths", cast(dtype))
    with pytest.raises(PlanError) as caught:
        resolved(source, TWICE)
    name = {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}[dtype]
    assert caught.value.problems == (
        f"output.dtype: {source} holds {name}, too coarse for what growth computes from it; found `same`, expected a "
        "wider type for the output: add `output: {dtype: bfloat16}` (or float16, float32)",
    )
    done = grown(source, TWICE | {"output": {"dtype": "float32"}}, tmp_path / "out")
    assert done.proof.holds and done.proof.comparison.relative_difference < 1e-5
    assert {info.dtype for info in open_checkpoint(done.out).tensors.values()} == {"F32"}


@pytest.mark.parametrize("bank", ["raw", "svd", "low_rank"])
def test_float8_decomposes(growtool, tmp_path, bank):
    source = folder_with(tmp_path / "eighths", cast(torch.float8_e4m3fn))
    code, out, err = growtool("decompose", source, "--bank", bank, "-o", tmp_path / "out", "--align", "--json")
    assert code == 0, err
    assert json.loads(out)["relative_difference"] < (1e-6 if bank == "raw" else 1)


def test_integers_in_the_place_of_weights_are_refused(tmp_path):
    source = folder_with(tmp_path / "ints", lambda state: state.update({"head.bias": torch.ones(5, dtype=torch.int8)}))
    message = (
        f"{source}: found integers in 1 tensors (head.bias is I8), expected floating-point numbers there; quantised "
        "weights mean nothing without their scales, name the checkpoint they come from"
    )
    with pytest.raises(CheckpointError) as caught:
        matched(open_checkpoint(source))
    assert caught.value.problems == (message,)
    with pytest.raises(CheckpointError, match="found integers in 1 tensors"):
        resolved(source, TWICE)


@pytest.mark.parametrize("operator", ["mixture", "random"])
def test_a_nan_in_the_source_is_no_bug_of_growtool(tmp_path, operator):
    source = folder_with(tmp_path / "diverged", lambda state: state["head.weight"][0, 0].fill_(float("nan")))
    with pytest.raises(CheckpointError) as caught:
        grown(source, TWICE | {"width": {"operator": operator}}, tmp_path / "out")
    assert caught.value.problems == (
        f"{source}: found numbers that are not finite in head.weight, expected a model that computes "
        "something; nothing was written, name a checkpoint from before it diverged",
    )
    assert not (tmp_path / "out").exists()


def test_overflow_without_a_nan_is_told_apart(tmp_path):
    source = folder_with(tmp_path / "large", lambda state: state["head.weight"].fill_(3e38))
    with pytest.raises(CheckpointError, match=r"large: its outputs on random images are not finite") as caught:
        grown(source, {"target": {"scale": {"width": 2}}, "width": {"operator": "random"}}, tmp_path / "out")
    assert "verify: false" in str(caught.value)


def test_an_image_with_a_nan_among_its_logits_is_not_decided():
    nan, sound = torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert Comparison.of(nan, nan).argmax_agreement == 0.5
    assert Comparison.of(sound, sound).argmax_agreement == 1.0


def test_options_of_grow_that_would_do_nothing_are_refused(growtool, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps(TWICE))
    code, _, err = growtool("grow", source, plan, "--optimizer-state", "run", "--no-optimizer-state")
    assert (code, err) == (1, "error: --optimizer-state run: found with --no-optimizer-state, expected one of them\n")
    code, _, err = growtool("grow", source, plan, "--data", "images", "--dry-run")
    assert (code, err) == (
        1,
        "error: --data images: found images that nothing in the plan looks at; drop the option, add --recalibrate, or "
        "name an operator that sees images (gradmax, ligo, mixing)\n",
    )


def _scaled(name: str, value: float):
    return lambda state: state[name].view(-1)[:1].fill_(value)


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("float16", 2e5, "found 200000, beyond 65504, the largest number of float16; bfloat16, float32 or float64"),
        ("float16", -7e4, "found 70000, beyond 65504, the largest number of float16; bfloat16, float32 or float64"),
        ("bfloat16", 3.4e38, "found 3.4e+38, beyond 3.38953e+38, the largest number of bfloat16; float32 or float64"),
    ],
)
@pytest.mark.parametrize("axis", ["width", "depth"])
@pytest.mark.parametrize("verify", [True, False])
def test_numbers_beyond_the_chosen_type_are_told_before_anything_is_written(tmp_path, dtype, value, told, axis, verify):
    source = folder_with(tmp_path / "large", _scaled("head.bias", value))
    operator = {"width": "tile", "depth": "zero_out"}[axis]
    plan = {"target": {"scale": {axis: 2}}, axis: {"operator": operator}, "output": {"dtype": dtype}}
    with pytest.raises(PlanError) as caught:
        grown(source, plan if verify else {**plan, "verify": False}, tmp_path / "out")
    assert caught.value.problems == (f"head.bias: {told} would hold it: set `output: {{dtype: ...}}` in the plan",)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["large"]


def test_all_tensors_with_numbers_beyond_the_type_are_told_at_once(tmp_path):
    def change(state):
        for name in ("head.bias", "pos_embed", "norm.bias"):
            _scaled(name, 1e6)(state)

    source = folder_with(tmp_path / "large", change)
    with pytest.raises(PlanError) as caught:
        grown(source, TWICE | {"output": {"dtype": "float16"}}, tmp_path / "out")
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"head.bias", "pos_embed", "norm.bias"}


def test_numbers_below_the_chosen_type_are_no_bug_of_growtool(tmp_path):
    source = folder_with(tmp_path / "small", lambda state: state.update({
        "head.weight": state["head.weight"] * 1e-9, "head.bias": state["head.bias"] * 0,
    }))  # fmt: skip
    with pytest.raises(PlanError) as caught:
        grown(source, TWICE | {"output": {"dtype": "float16"}}, tmp_path / "out")
    text = str(caught.value)
    assert "the source alone, rounded to float16, differs by " in text and "head.weight holds " in text
    assert "bug of growtool" not in text and not (tmp_path / "out").exists()
    grown(source, TWICE | {"output": {"dtype": "bfloat16"}}, tmp_path / "out")


def test_float64_beyond_what_trains_is_told(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "huge")
    state = load_file(source / WEIGHTS)
    state["head.bias"][0] = 1e300
    save_file(state, source / WEIGHTS)
    with pytest.raises(PlanError) as caught:
        load_model(open_checkpoint(source))
    assert caught.value.problems == (
        f"{source}: head.bias: found 1e+300, beyond 3.40282e+38, the largest number of float32; float64 would hold it",
    )


def test_templates_that_add_up_beyond_their_type_are_told(tmp_path):
    half = folder_with(tmp_path / "half", cast(torch.float16))
    whole = decomposed(half, tmp_path / "form")
    stored = load_file(whole / WEIGHTS)
    for name in stored:
        if name.endswith((".templates", ".coefficients")):
            stored[name] = stored[name] * 0 + (6e4 if name.endswith(".templates") else 2)
    with safe_open(whole / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    save_file(stored, whole / WEIGHTS, metadata)
    with pytest.raises(PlanError, match=r"form: .*: found [0-9]+, beyond 65504, the largest number of float16"):
        export_dense(tmp_path / "out", open_checkpoint(whole))
    assert not (tmp_path / "out").exists()


def decomposed(source: Path, out: Path) -> Path:
    decompose_checkpoint(open_checkpoint(source), Request("raw"), output=out)
    return out
