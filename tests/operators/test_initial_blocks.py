"""Blocks that start as their library initialises them: exact, deterministic, named, and able to learn.

Every number of the sources is random and in float64.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from growtool.errors import PlanError
from growtool.library import library_of
from tests.support.models import TINY, TINY_RESNET, Tiny, difference, grown, load, resolved, write_folder
from tests.support.plain_timm import in_plain_timm

EXACT = 1e-10
RESNET = Tiny("resnet18", TINY_RESNET)
BOTTLENECK = Tiny("resnet50", {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "num_classes": 5})
NFNET = TINY["nfnet"].with_args(depths=[1, 1, 1, 1])
SWIN = TINY["swin"].with_args(depths=[1, 1])
CONVNEXT = TINY["convnext"].with_args(depths=[1, 1, 1, 1])
ONE_BLOCK = TINY["vit"].with_args(depth=1)
LEVIT = TINY["levit"]
INITIAL = {"operator": "zero_out", "start": "initial"}
MAP = {"operator": "map", "map": [0, "initial", 1, "initial"], "start": "cancel_out"}
COMPARED = """
import sys, timm, torch
from safetensors.torch import load_file
models = []
for folder in sys.argv[1:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=False).double().eval()
    model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=True)
    models.append(model)
images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
a, b = (model(images) for model in models)
assert (a[0] - a[1]).abs().max() > 1e-3 * a.abs().max()
print(float((a - b).abs().max() / a.abs().max()))
"""


@pytest.mark.parametrize("layers", [[2, 2, 2, 2], [3, 4, 6, 3]], ids=str)
def test_a_resnet_of_one_block_per_stage_grows_deeper_by_the_command(layers, growtool, tmp_path):
    source, out = write_folder(RESNET, tmp_path / "source"), tmp_path / "out"
    code, told, err = growtool("grow", source, "--depth", ",".join(map(str, layers)), "-o", out)
    assert code == 0, err
    said = " ".join((told + err).split())
    assert "start closed, with the values that timm initialises them with (start: initial)" in said
    assert f"layer3.1{'' if layers[2] == 2 else '-5'}" in said and "no block of the source is one to copy" in said
    report = json.loads((out / "growth.json").read_text())
    assert report["promise"]["kind"] == "exact" and report["initial_blocks"] == report["new_blocks"]
    assert len(report["new_blocks"]) == sum(layers) - 4
    found = in_plain_timm(COMPARED, source, out)
    assert found.returncode == 0 and float(found.stdout) < EXACT, found.stderr


def test_a_factor_reaches_stages_of_one_block(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    recipe = resolved(source, {"scale": {"depth": 2}})
    assert recipe.target.model_args["layers"] == [2, 2, 2, 2] and recipe.promise.kind == "exact"


@pytest.mark.parametrize(
    ("tiny", "args", "plan"),
    [
        (RESNET, {"layers": [2, 3, 2, 2], "channels": [8, 16, 16, 24]}, {"depth": "zero_out", "width": "tile"}),
        (RESNET, {"layers": [2, 2, 2, 2], "channels": [6, 12, 12, 18]}, {"depth": "zero_out", "width": "net2net"}),
        (RESNET, {"layers": [2, 2, 2, 2], "channels": [6, 12, 12, 18]}, {"depth": "zero_out", "width": "zero"}),
        (RESNET, {"layers": [2, 2, 2, 2]}, {"depth": "net2deeper"}),
        (BOTTLENECK, {"layers": [2, 2, 3, 2], "channels": [8, 8, 16, 16]}, {}),
        (NFNET, {"depths": [2, 2, 1, 2], "channels": [16, 16, 32, 32]}, {}),
        (SWIN, {"depths": [2, 2]}, {}),
        (LEVIT, {"depth": [2, 2, 1]}, {"depth": INITIAL}),
        (CONVNEXT, {"depths": [2, 1, 3, 1]}, {"depth": INITIAL}),
        (ONE_BLOCK, {"depth": 3}, {"depth": INITIAL}),
        (ONE_BLOCK, {"depth": 3}, {"depth": {"operator": "cancel_out", "start": "initial"}}),
        (ONE_BLOCK, {"depth": 2, "embed_dim": 16, "num_heads": 4}, {"depth": INITIAL, "width": "mixture"}),
        (TINY["vit"], {"depth": 4}, {"depth": MAP}),
    ],
    ids=str,
)  # fmt: skip
def test_they_are_exact_hold_initial_values_and_learn(tiny, args, plan, tmp_path):
    plan = {"target": {"model_args": args}, **plan}
    source, out = write_folder(tiny, tmp_path / "source"), tmp_path / "out"
    recipe = resolved(source, plan)
    assert recipe.promise.kind == "exact" and recipe.blocks.initial
    grown(source, plan, out)
    target, made = load(out), load_file(out / "model.safetensors")
    assert difference(load(source), target, tiny.inputs()) < EXACT
    drawn = library_of(recipe.target).initialised(recipe.target, 0).state_dict()
    for name, tensor in recipe.tensors.items():
        if recipe.blocks.is_initial(name) and not (tensor.zero or tensor.paired or tensor.cancelling):
            assert torch.equal(made[name].double(), drawn[name].double()), name
    cross_entropy(target(tiny.inputs(4)), torch.arange(4)).backward()
    gradients = {name: p.grad.abs().max() for name, p in target.named_parameters() if p.grad is not None}
    for block in recipe.blocks.new:
        assert max(g for name, g in gradients.items() if name.startswith(f"{block}.")) > 0, block


def test_blocks_that_can_be_copied_are(tmp_path):
    """By default; and nothing is said of initial values where there are none."""
    source = write_folder(RESNET.with_args(layers=[1, 2, 1, 1]), tmp_path / "source")
    recipe = resolved(source, {"target": {"model_args": {"layers": [1, 3, 2, 1]}}, "depth": "zero_out"})
    assert recipe.blocks.new == ["layer2.2", "layer3.1"] and recipe.blocks.initial == ["layer3.1"]
    assert recipe.blocks.source_name("layer2.2.conv1.weight") == "layer2.1.conv1.weight"
    (said,) = recipe.choices
    assert said.startswith("depth: layer3.1 starts closed, with the values that timm initialises it with")
    assert not resolved(source, {"target": {"model_args": {"layers": [1, 3, 1, 1]}}, "depth": "zero_out"}).choices
    assert not resolved(source, {"target": {"model_args": {"layers": [1, 3, 1, 1]}}, "depth": INITIAL}).choices


def test_they_are_closed_beside_copies_that_run(tmp_path):
    source = write_folder(RESNET.with_args(layers=[1, 2, 1, 1]), tmp_path / "source")
    recipe = resolved(source, {"target": {"model_args": {"layers": [1, 3, 2, 1]}}, "depth": "stack"})
    assert recipe.promise.kind == "lossy"
    assert {name for name, tensor in recipe.tensors.items() if tensor.zero} == {
        "layer3.1.bn2.weight",
        "layer3.1.bn2.bias",
    }


def test_their_values_are_those_of_the_seed(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")

    def weights(out: Path, seed: int) -> bytes:
        grown(source, {"target": {"model_args": {"layers": [2, 1, 1, 1]}}, "seed": seed}, out)
        return (out / "model.safetensors").read_bytes()

    assert weights(tmp_path / "a", 1) == weights(tmp_path / "b", 1) != weights(tmp_path / "c", 2)


def test_statistics_begin_anew_and_ask_for_nothing(tmp_path):
    """Batches' own statistics serve in training, and the running ones follow: there is nothing to recalibrate."""
    source, out = write_folder(RESNET, tmp_path / "source"), tmp_path / "out"
    result = grown(source, {"target": {"model_args": {"layers": [1, 2, 1, 1]}}}, out)
    made = load_file(out / "model.safetensors")
    assert not made["layer2.1.bn1.running_mean"].any() and (made["layer2.1.bn1.running_var"] == 1).all()
    assert not result.summary.advice
    assert any(line == "with initial values: all of them" for line in result.summary.growth())


def test_a_block_that_could_only_run_is_refused(tmp_path):
    tiny = Tiny("growtool_open", {"base": "mobilenetv1_100", "channel_multiplier": 0.1, "num_classes": 5})
    source = write_folder(tiny, tmp_path / "source")
    with pytest.raises(PlanError, match=r"zero_out needs a residual connection around the block"):
        resolved(source, {"target": {"model_args": {"depth_multiplier": 2}}, "depth": INITIAL})


def test_a_map_has_to_say_so_where_there_is_nothing_to_copy(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    plan = {"target": {"model_args": {"layers": [1, 2, 1, 1]}}, "depth": {"operator": "map", "map": [0, 0]}}
    with pytest.raises(PlanError, match=r"layer2\.1 made from layer2\.0, expected initial: the source has no block of"):
        resolved(source, plan)
    plan["depth"]["map"] = [0, "initial"]
    assert resolved(source, plan).blocks.initial == ["layer2.1"]
