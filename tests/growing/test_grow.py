"""Growing from end to end: what a plan promises, the written folder keeps, on models whose every number is random.

All in float64, where an exact plan has nothing but rounding between source and target. Written folders are loaded with
timm alone; growtool's own proof is not asked, except where the test is about it.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from growtool.checkpoint import WEIGHTS
from tests.support.models import (
    TINY,
    WIDER,
    Tiny,
    difference,
    grown,
    load,
    resolved,
    write_folder,
)

EXACT = 1e-10
TILE = {"operator": "tile"}
SPLIT_EVENLY = {"operator": "tile", "split": "equal"}
NET2NET = {"operator": "net2net", "split": "random_projection"}
MIXTURE = {"operator": "mixture"}
PUBLISHED = {"operator": "mixture", "compensate": False}
ZERO_OUT = {"operator": "zero_out"}
RESNET = Tiny("resnet18", {"layers": [2, 2, 2, 2], "channels": [4, 8, 8, 12], "num_classes": 5})


def wider(family: str, width: dict, **more) -> dict:
    return {"target": {"model_args": dict(WIDER[family])}, "width": width, **more}


def grow_and_compare(tiny: Tiny, plan: dict, folder: Path) -> tuple[str, float]:
    """The promise, and how far the logits are apart."""
    source = write_folder(tiny, folder / "source")
    result = grown(source, plan, folder / "out")
    return str(resolved(source, plan).promise), difference(load(source), load(result.out), tiny.inputs())


@pytest.mark.parametrize("width", [TILE, MIXTURE], ids=["tile", "mixture"])
@pytest.mark.parametrize("family", [family for family in WIDER if family != "cait"])
def test_whole_multiples_keep_the_function(family, width, tmp_path):
    promise, apart = grow_and_compare(TINY[family], wider(family, width), tmp_path)
    assert promise == "exact"
    assert apart < EXACT


@pytest.mark.parametrize(
    ("family", "args"),
    [
        ("resnet", {"channels": [5, 11, 13, 17]}),
        ("bottleneck", {"channels": [5, 6, 9, 11]}),
        ("levit", {"embed_dim": [24, 48, 48], "num_heads": [3, 5, 6]}),
        ("densenet", {"growth_rate": 7}),
    ],
)
def test_nets_without_a_norm_over_channels_take_any_width(family, args, tmp_path):
    plan = {"target": {"model_args": args}, "width": NET2NET}
    promise, apart = grow_and_compare(TINY[family], plan, tmp_path)
    assert promise == "exact"
    assert apart < EXACT


@pytest.mark.parametrize(
    ("tiny", "plan", "reason"),
    [
        (TINY["vit"], wider("vit", NET2NET), r"LayerNorm over .* copied equally often \(residual stream 8 -> 16\)"),
        (TINY["convnext"], wider("convnext", NET2NET), r"stages\.\d.*LayerNorm over channels"),
        (TINY["vit"], wider("vit", PUBLISHED), r"mixture without compensation adds the new blocks"),
        (RESNET, wider("resnet", PUBLISHED), r"mixture without compensation"),
        (
            TINY["vit"],
            {"target": {"model_args": {"embed_dim": 12}}, "width": NET2NET},
            r"attn of .*multiplied and summed over the copied channels \(head size 4 -> 6\)",
        ),
        (TINY["nfnet"], wider("nfnet", NET2NET), r"the weights are transformed \(standardised, say\) before use"),
        (TINY["vit"], {"target": {"model_args": {"depth": 4}}, "depth": {"operator": "stack"}}, r"stack runs every"),
        (RESNET, {"target": {"model_args": {"layers": [3] * 4}}, "depth": {"operator": "interleave"}}, r"interleave"),
    ],
    ids=["net2net vit", "net2net convnext", "published vit", "published resnet", "head size", "standardised", "stack",
         "interleave"],
)  # fmt: skip
def test_what_cannot_be_kept_is_called_lossy_and_is(tiny, plan, reason, tmp_path):
    promise, apart = grow_and_compare(tiny, plan | {"allow_lossy": True}, tmp_path)
    assert promise.startswith("lossy: ")
    assert re.search(reason, promise), promise
    assert apart > 1e-3


@pytest.mark.parametrize("placement", ["interleaved", "end"])
@pytest.mark.parametrize(
    ("tiny", "args"),
    [
        (TINY["vit"], {"depth": 5}),
        (TINY["vit_scaled"], {"depth": 4}),
        (TINY["eva"], {"depth": 3}),
        (TINY["convnext"], {"depths": [2, 3, 1, 2]}),
        (RESNET, {"layers": [3, 2, 4, 3]}),
        (TINY["levit"], {"depth": [2, 1, 3]}),
    ],
    ids=["vit", "layer scale", "eva", "convnext", "resnet", "levit"],
)
def test_zeroed_blocks_keep_the_function_to_the_bit(tiny, args, placement, tmp_path):
    plan = {"target": {"model_args": args}, "depth": {**ZERO_OUT, "placement": placement}}
    promise, apart = grow_and_compare(tiny, plan, tmp_path)
    assert promise == "exact"
    assert apart == 0.0


def test_blocks_of_two_kinds_keep_their_turns(tmp_path):
    """Swin shifts the windows of every second block: new ones copy their own kind."""
    source = write_folder(TINY["swin"], tmp_path / "source")
    plan = {"target": {"model_args": {"depths": [4, 2]}}, "depth": ZERO_OUT}
    recipe = resolved(source, plan)
    assert recipe.blocks.new == ["layers.0.blocks.2", "layers.0.blocks.3"]
    assert [placed.source for placed in recipe.blocks.placed["layers.0.blocks."].values()] == [0, 1, 0, 1]
    grown(source, plan, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), TINY["swin"].inputs()) < EXACT


@pytest.mark.parametrize(
    ("tiny", "args", "width"),
    [
        (TINY["vit"], {"embed_dim": 24, "num_heads": 6, "depth": 3}, MIXTURE),
        (RESNET, {"channels": [6, 9, 12, 15], "layers": [3, 3, 2, 2]}, NET2NET),
        (TINY["convnext"], {"dims": [8, 12, 16, 16], "depths": [1, 3, 2, 1]}, TILE),
    ],
    ids=["vit", "resnet", "convnext"],
)
def test_width_and_depth_in_one_plan(tiny, args, width, tmp_path):
    plan = {"target": {"model_args": args}, "width": width, "depth": ZERO_OUT}
    promise, apart = grow_and_compare(tiny, plan, tmp_path)
    assert promise == "exact"
    assert apart < EXACT


@pytest.mark.parametrize("width", [SPLIT_EVENLY, MIXTURE], ids=["tile", "mixture"])
def test_two_steps_are_one_long_step_as_functions(width, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    twice, fourfold = ({"embed_dim": 8 * k, "num_heads": 2 * k, "depth": 1 + k} for k in (2, 4))
    for start, args, out in ((source, twice, "b"), (tmp_path / "b", fourfold, "c"), (source, fourfold, "direct")):
        grown(start, {"target": {"model_args": args}, "width": width, "depth": ZERO_OUT}, tmp_path / out)
    inputs, in_steps = TINY["vit"].inputs(), load(tmp_path / "c")
    assert difference(load(source), in_steps, inputs) < EXACT
    assert difference(load(tmp_path / "direct"), in_steps, inputs) < EXACT
    lineage = json.loads((tmp_path / "c" / "config.json").read_text())["growtool"]["lineage"]
    assert [step["source"] for step in lineage] == ["source", "b"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factor_one_copies_every_tensor_to_the_bit(dtype, tmp_path):
    tiny = RESNET
    source = write_folder(tiny, tmp_path / "source", dtype=dtype)
    result = grown(source, {"target": {"model_args": dict(tiny.args)}, "width": TILE}, tmp_path / "out")
    before, after = load_file(source / WEIGHTS), load_file(result.out / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(
        torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype for name, tensor in before.items()
    )
    assert result.summary.promise == "exact"


def test_what_does_not_grow_is_copied_to_the_bit(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    grown(source, {"target": {"model_args": {"layers": [2, 2, 2, 3]}}, "depth": ZERO_OUT}, tmp_path / "out")
    before, after = load_file(source / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    moved = {name.replace("layer4.2.", "layer4.1.") for name in after.keys() - before.keys()}
    assert moved <= before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    zeros = {name for name in after.keys() - before.keys() if not after[name].any()}
    counters = {name for name in zeros if name.endswith("num_batches_tracked")}
    assert zeros - counters == {"layer4.2.bn2.weight", "layer4.2.bn2.bias"}


def test_counters_are_copied_as_integers(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    weights = load_file(source / WEIGHTS)
    weights["bn1.num_batches_tracked"] = torch.tensor(2**40 + 1)
    save_file(weights, source / WEIGHTS)
    grown(source, {"target": {"model_args": {"channels": [8, 16, 16, 24]}}, "width": TILE}, tmp_path / "out")
    assert load_file(tmp_path / "out" / WEIGHTS)["bn1.num_batches_tracked"] == 2**40 + 1


@pytest.mark.parametrize(
    ("source_dtype", "plan_dtype", "expected", "tolerance"),
    [
        (torch.bfloat16, "same", torch.bfloat16, 5e-2),
        (torch.float16, "same", torch.float16, 5e-3),
        (torch.bfloat16, "float64", torch.float64, EXACT),
        (torch.float32, "float64", torch.float64, EXACT),
        (torch.float64, "bfloat16", torch.bfloat16, 5e-2),
    ],
    ids=str,
)
def test_element_types(source_dtype, plan_dtype, expected, tolerance, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=source_dtype)
    plan = wider("vit", MIXTURE, output={"dtype": plan_dtype})
    grown(source, plan, tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()} == {expected}
    assert difference(load(source), load(tmp_path / "out"), TINY["vit"].inputs()) < tolerance


def gradients(folder: Path, tiny: Tiny) -> dict[str, torch.Tensor]:
    model = load(folder)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    logits = model(tiny.inputs())
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("tiny", "args"),
    [(TINY["vit"], {"depth": 4}), (TINY["vit_scaled"], {"depth": 4}), (RESNET, {"layers": [3] * 4}),
     (TINY["convnext"], {"depths": [2, 3, 2, 2]})],
    ids=["vit", "layer scale", "resnet", "convnext"],
)  # fmt: skip
def test_new_blocks_learn_from_the_first_step(tiny, args, tmp_path):
    """Zeroed tensors are reached by gradients, and after one step so is everything behind them: no dead block."""
    source = write_folder(tiny, tmp_path / "source")
    result = grown(source, {"target": {"model_args": args}, "depth": ZERO_OUT}, tmp_path / "out")
    weights = load_file(result.out / WEIGHTS)
    first = gradients(result.out, tiny)
    assert result.summary.new_blocks
    for block in result.summary.new_blocks:
        reached = [name for name in first if name.startswith(f"{block}.") and first[name].any()]
        assert reached, block
        assert all(not weights[name].any() for name in reached)
    for name, gradient in first.items():
        weights[name] -= 0.1 * gradient
    save_file(weights, result.out / WEIGHTS)
    for name, gradient in gradients(result.out, tiny).items():
        assert gradient.any() or name.endswith("k.bias"), name


def copies_apart(width: dict, folder: Path) -> float:
    """How far two copies of the hidden units of a ViT are apart after fifty steps of Adam, relative to their size."""
    source = write_folder(TINY["vit"], folder / "source")
    grown(source, wider("vit", width), folder / "out")
    model = load(folder / "out").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = TINY["vit"].inputs(8)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), torch.arange(8) % 5).backward()
        optimizer.step()
    rows = model.get_parameter("blocks.0.mlp.fc1.weight").detach()
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    # both copies of the stream, so that what only sits in another place does not count
    first, second = (half.reshape(len(half), 2, -1).sum(1) for half in (first, second))
    return float((first - second).norm() / first.norm())


def test_copies_learn_different_things_where_the_operator_says_so(tmp_path):
    assert copies_apart({**TILE, "gain": 0.1}, tmp_path / "tile") > 1e-3
    assert copies_apart(MIXTURE, tmp_path / "mixture") > 1e-3
    assert copies_apart(SPLIT_EVENLY, tmp_path / "even") < 1e-9
