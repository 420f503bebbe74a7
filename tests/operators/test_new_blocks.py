"""Blocks that growth adds: they start as the identity where that is promised, and every one of them can learn.

Written folders are loaded with timm alone. Every number of the sources is random and in float64.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from growtool.errors import PlanError
from growtool.operators.depth.cancel_out import Cancellation, cancelling, pairs
from tests.support.golden_depth import DEEPER, GOLDEN, MOBILENET, RESNET, record
from tests.support.models import TINY, Tiny, difference, grown, load, resolved, write_folder

EXACT = 1e-10
TRANSFORMERS = ["vit", "layer scale", "eva", "convnext", "swin", "mixer"]


SLOW = ("efficientnet",)
EACH = [pytest.param(family, marks=[pytest.mark.slow] if family in SLOW else []) for family in DEEPER]


@pytest.mark.parametrize("family", EACH)
def test_what_depth_operators_make_is_as_recorded(family):
    assert record(family) == json.loads(GOLDEN.read_text())[family], (
        "if it is meant, run `python -m tests.support.golden_depth`"
    )


def deepened(family: str, operator: str, folder: Path, **options) -> tuple[nn.Module, nn.Module, list[str], str]:
    """Source, target, the paths of its new blocks, and the promise."""
    tiny, args = DEEPER[family]
    plan = {"target": {"model_args": args}, "depth": {"operator": operator, **options}}
    source = write_folder(tiny, folder / "source")
    recipe = resolved(source, plan)
    grown(source, plan, folder / "out")
    return load(source), load(folder / "out"), recipe.blocks.new, str(recipe.promise)


def gradients(model: nn.Module, tiny: Tiny) -> dict[str, torch.Tensor]:
    loss = cross_entropy(model(tiny.inputs(4)), torch.arange(4))
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", [family for family in EACH if family.values != ("mobilenetv1",)])
def test_zeroed_blocks_start_as_the_identity_and_learn(family, tmp_path):
    source, target, new, promise = deepened(family, "zero_out", tmp_path)
    assert promise == "exact" and new
    assert difference(source, target, DEEPER[family][0].inputs()) < EXACT
    found = gradients(target, DEEPER[family][0])
    for block in new:
        assert any(g.abs().max() > 0 for name, g in found.items() if name.startswith(f"{block}.")), block


@pytest.mark.parametrize("operator", ["stack", "interleave"])
@pytest.mark.parametrize("family", ["vit", "convnext", "swin", "mixer", "resnet", "mobilenetv1"])
def test_repeated_blocks_change_the_function_and_say_so(family, operator, tmp_path):
    source, target, new, promise = deepened(family, operator, tmp_path)
    assert promise.startswith(f"lossy: {operator} runs every repeated block once more") and new
    assert difference(source, target, DEEPER[family][0].inputs()) > 1e-2


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_cancelling_blocks_start_as_the_identity_and_all_of_them_learns(family, tmp_path):
    source, target, new, promise = deepened(family, "cancel_out", tmp_path)
    assert promise == "exact" and new
    assert difference(source, target, DEEPER[family][0].inputs()) < EXACT
    found = gradients(target, DEEPER[family][0])
    for block in new:
        for name, gradient in found.items():
            # a softmax does not see what all keys share, and a LayerScale at the end multiplies what cancels to zero
            if name.startswith(f"{block}.") and not name.endswith(("k_proj.bias", "gamma", "gamma_1", "gamma_2")):
                assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_pairs_part_after_a_few_updates(family, tmp_path):
    """No twins: what starts alike reads with opposite weights, so its gradients differ from the first step."""
    tiny = DEEPER[family][0]
    _, target, new, _ = deepened(family, "cancel_out", tmp_path)
    optimizer = torch.optim.Adam(target.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(target(tiny.inputs(4)), torch.arange(4)).backward()
        optimizer.step()
    state = target.state_dict()
    for block in new:
        for name in [n for n in state if n.startswith(f"{block}.") and re.search(r"fc1[^.]*\.weight$", n)]:
            first, second = state[name].chunk(2)
            assert (first - second).abs().max() > 1e-4, name


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_a_branch_that_ends_in_a_norm_has_nothing_to_cancel(family, tmp_path):
    tiny, args = DEEPER[family]
    source = write_folder(tiny, tmp_path / "source")
    message = (
        r"cancel_out needs a branch that ends in a matrix over units of its own, found bn\d\.bias, bn\d\.weight "
        r"\(a norm, or no units to pair\); use zero_out, which is what LEMON does there"
    )
    with pytest.raises(PlanError, match=message):
        resolved(source, {"target": {"model_args": args}, "depth": {"operator": "cancel_out"}})


def test_pairs_of_units():
    source, partner = pairs(4)
    assert source.tolist() == [0, 1, 0, 1] and partner.tolist() == [2, 3, 0, 1]
    source, partner = pairs(5)
    assert source.tolist() == [0, 1, 0, 1, 4] and partner.tolist() == [2, 3, 0, 1, 4]


def test_weights_that_cancel_by_hand():
    """Opposite for the units of a pair, zero for one without partner, of the deviation asked for."""
    W = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    where = Cancellation(1, pairs(5)[1], gain=0.5)
    closing = cancelling(W, where, torch.Generator().manual_seed(1))
    assert torch.equal(closing[:, :2], -closing[:, 2:4]) and not closing[:, 4].any()
    assert float(closing[:, :4].std() / W.std()) == pytest.approx(0.5, rel=0.1)
    x = torch.tensor([1.0, 2.0, 1.0, 2.0, 7.0], dtype=torch.float64)
    assert (closing @ x).abs().max() < 1e-14


def test_cancelling_blocks_in_a_wider_net(tmp_path):
    tiny = TINY["vit"]
    source = write_folder(tiny, tmp_path / "source")
    plan = {
        "target": {"model_args": {"embed_dim": 24, "num_heads": 6, "depth": 3}},
        "width": {"operator": "mixture"}, "depth": {"operator": "cancel_out", "gain": 0.1},
    }  # fmt: skip
    assert str(resolved(source, plan).promise) == "exact"
    grown(source, plan, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), tiny.inputs()) < EXACT


@pytest.mark.parametrize(
    ("args", "width"),
    [
        ({"depth_multiplier": 2}, None),
        ({"depth_multiplier": 1.5, "channel_multiplier": 0.2}, {"operator": "net2net"}),
    ],
    ids=["deeper", "deeper and wider"],
)
@pytest.mark.parametrize("placement", ["interleaved", "end"])
def test_layers_that_pass_on_what_they_receive(args, width, placement, tmp_path):
    source = write_folder(MOBILENET, tmp_path / "source")
    plan = {"target": {"model_args": args}, "depth": {"operator": "net2deeper", "placement": placement}}
    plan |= {"width": width} if width else {}
    recipe = resolved(source, plan)
    assert str(recipe.promise) == "exact" and "blocks.0.1" in recipe.blocks.new
    grown(source, plan, tmp_path / "out")
    target = load(tmp_path / "out")
    assert difference(load(source), target, MOBILENET.inputs()) < EXACT
    found = gradients(target, MOBILENET)
    for name, gradient in found.items():
        if name.startswith(tuple(f"{block}." for block in recipe.blocks.new)):
            assert gradient.abs().max() > 0, name


@pytest.mark.parametrize(
    ("tiny", "args", "message"),
    [
        (RESNET, {"layers": [3, 2, 2, 2]}, r"layer1\.2: net2deeper is for networks without residual connections, and "),
        (
            Tiny("test_vit", {"img_size": 32, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}),
            {"depth": 3},
            r"block 2: net2deeper is for networks without residual connections, and the block has one; use zero_out",
        ),
        (
            MOBILENET.with_args(act_layer="silu"),
            {"depth_multiplier": 2},
            r"blocks\.0\.1, .*: net2deeper needs blocks of convolutions, BatchNorm with running statistics and the "
            r"idempotent activation \(ReLU, ReLU6\) that the input came out of, found silu\(\) after none; use zero",
        ),
    ],
    ids=["resnet", "vit", "silu"],
)
def test_blocks_that_cannot_pass_on_what_they_receive(tiny, args, message, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    with pytest.raises(PlanError, match=message):
        resolved(source, {"target": {"model_args": args}, "depth": {"operator": "net2deeper"}})


@pytest.mark.parametrize(("start", "kind"), [("copy", "lossy"), ("zero_out", "exact"), ("cancel_out", "exact")])
def test_a_map_says_where_every_block_comes_from(start, kind, tmp_path):
    """The map of SWS: two stages of one block each, spread over five."""
    tiny = TINY["vit"].with_args(depth=3)
    source = write_folder(tiny, tmp_path / "source")
    plan = {
        "target": {"model_args": {"depth": 5}},
        "depth": {"operator": "map", "map": [0, 0, 1, 1, 2], "start": start},
    }
    recipe = resolved(source, plan)
    placed = recipe.blocks.placed["blocks."]
    assert [placed[i].source for i in range(5)] == [0, 0, 1, 1, 2]
    assert recipe.blocks.new == ["blocks.1", "blocks.3"] and recipe.promise.kind == kind
    grown(source, plan, tmp_path / "out")
    apart = difference(load(source), load(tmp_path / "out"), tiny.inputs())
    assert (apart < EXACT) == (kind == "exact")


def test_a_map_for_each_stage(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    lists = {"layer1": [0, 1, 1], "layer3": [0, 1, 1, 1]}
    plan = {
        "target": {"model_args": {"layers": [3, 2, 4, 2]}},
        "depth": {"operator": "map", "map": lists, "start": "zero_out"},
    }
    recipe = resolved(source, plan)
    found = {prefix: [p.source for p in blocks.values()] for prefix, blocks in recipe.blocks.placed.items()}
    assert found == {f"{stage}.": blocks for stage, blocks in lists.items()}
    grown(source, plan, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), RESNET.inputs()) == 0.0


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([0, 1], r"depth\.map: found 2 blocks for layer1, expected 3: the target has so many there"),
        ([0, 1, 2], r"depth\.map: found block 2 for layer1, expected one of 0 to 1 of the source"),
        ([0, 0, 0], r"depth\.map: found no block made from layer1\.1, expected each to stay; growth drops nothing"),
        ([1, 0, 1], r"depth\.map: found \[1, 0, 1\] for layer1, expected each block to come first after its predec"),
        ([0, 0, 1], r"depth\.map: found layer1\.1 made from layer1\.0, expected one of 1: blocks of the same kind"),
        ({"layer2": [0, 1, 1]}, r"depth\.map: found no list for layer1, expected one: it grows to 3 blocks"),
        (
            {"layer1": [0, 1, 1], "layer7": [0]},
            r"depth\.map: found a list for layer7, which does not grow deeper, expected lists for layer1 alone; drop",
        ),
    ],
    ids=str,
)
def test_a_map_that_does_not_fit(lists, message, tmp_path):
    source = write_folder(RESNET.with_args(channels=[12, 8, 8, 12]), tmp_path / "source")
    plan = {"target": {"model_args": {"layers": [3, 2, 2, 2]}}, "depth": {"operator": "map", "map": lists}}
    with pytest.raises(PlanError, match=message):
        resolved(source, plan)


@pytest.mark.parametrize("operator", ["zero_out", "cancel_out"])
def test_depth_and_width_may_come_in_either_order(operator, tmp_path):
    """Deeper then wider, wider then deeper and both at once compute the same function."""
    tiny = TINY["vit"]
    source = write_folder(tiny, tmp_path / "source")
    wide, deep = {"embed_dim": 16, "num_heads": 4}, {"depth": 4}
    both = {"target": {"model_args": {**wide, **deep}}}
    wider = {"target": {"model_args": wide}, "width": {"operator": "tile"}}
    deeper = {"target": {"model_args": deep}, "depth": {"operator": operator}}
    models = []
    orders = {"both": [{**wider, **deeper, **both}], "deep first": [deeper, wider], "wide first": [wider, deeper]}
    for order, steps in orders.items():
        here = source
        for step, plan in enumerate(steps):
            out = tmp_path / order / str(step)
            out.parent.mkdir(exist_ok=True)
            grown(here, plan, out)
            here = out
        models.append(load(here))
    for model in models:
        assert difference(load(source), model, tiny.inputs()) < EXACT
