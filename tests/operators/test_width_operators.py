"""Width operators beside tile, net2net and mixture: what they put where, and that they keep what they promise."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion, copied_evenly, padded, tiled
from growtool.growing import summarise
from growtool.operators.base import Layer
from growtool.operators.width import aki, random, variance_transfer
from growtool.plan.width import Aki, Random, VarianceTransfer
from growtool.trace import ChannelGroup, GroupPair, PairedAxis
from tests.support.copies import COPIES
from tests.support.models import TINY, WIDER, difference, grown, load, resolved, write_folder

EXACT = 1e-10


def plan(args: dict, operator: str, **options) -> dict:
    return {"target": {"model_args": dict(args)}, "width": {"operator": operator, **options}}


def axis(expansion: Expansion, *, summed: bool) -> AxisMap:
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset([growth] if summed else []))


def test_even_copies_are_whole_ones_and_then_none_twice():
    expansion = copied_evenly(3, 8, torch.Generator().manual_seed(0))
    assert expansion.index[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert len(set(expansion.index[6:].tolist())) == 2
    assert copied_evenly(3, 6, torch.Generator()).multiplicity == 2


@pytest.mark.parametrize("split", ["equal", "random_projection"])
@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "resnet"])
def test_fpi_is_exact_for_whole_multiples(family, split, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source")
    result = grown(source, plan(WIDER[family], "fpi", split=split), tmp_path / "out")
    assert result.summary.promise == "exact"
    assert difference(load(source), load(result.out), TINY[family].inputs()) < EXACT


def test_aki_takes_new_rows_from_the_next_block_by_hand():
    rows, columns = axis(tiled(2, 4), summed=False), axis(tiled(1, 2), summed=True)
    layer = Layer("x", (rows, columns), 0, next_block=lambda: torch.tensor([[6.0], [8.0]]))
    done = aki.grow(Aki(), torch.tensor([[2.0], [4.0]]), layer)
    assert done.tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]


def test_aki_in_a_transformer(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    result = grown(source, plan(WIDER["vit"], "aki"), tmp_path / "out")
    assert result.summary.promise == "lossy" and "next block" in result.summary.reasons[0]
    before, after = load_file(source / "model.safetensors"), load_file(result.out / "model.safetensors")
    name = "blocks.{}.mlp.fc1.bias"
    hidden = len(before[name.format(0)])
    assert torch.equal(after[name.format(0)][hidden:], before[name.format(1)])
    assert torch.equal(after[name.format(1)][hidden:], before[name.format(1)])  # the last block has its own


def test_variance_transfer_by_hand():
    """Four hidden units become six: two new ones alike in their rows, opposite where they are read; b = sqrt(4/6)."""
    hidden = padded(4, 6, copies=1)
    partner = torch.tensor([0, 1, 2, 3, 5, 4])
    writer = Layer("w", (axis(hidden, summed=False), AxisMap.unchanged(3)), 0, "noise", pair_partners=((0, partner),))
    reader = Layer("r", (AxisMap.unchanged(2), axis(hidden, summed=True)), 0, pair_partners=((1, partner),))
    W1, W2 = torch.randn(4, 3).double(), torch.randn(2, 4).double()
    for rescale, b in ((False, 1.0), (True, math.sqrt(4 / 6))):
        spec = VarianceTransfer(rescale=rescale)
        w1 = variance_transfer.grow(spec, W1, writer)
        w2 = variance_transfer.grow(spec, W2, reader)
        assert torch.equal(w1[:4], W1) and torch.equal(w1[4], w1[5]) and w1[4].any()
        torch.testing.assert_close(w2[:, :4], b * W2)
        assert torch.equal(w2[:, 4], -w2[:, 5]) and w2[:, 4].any()
        x = torch.randn(3).double()
        torch.testing.assert_close(w2 @ (w1 @ x).relu(), b * W2 @ (W1 @ x).relu())


def test_a_scale_before_batchnorm_goes_into_its_statistics():
    """What a factor b does to a weight, b does to the mean and b^2 to the variance: 0.8165 and 0.6667 for 4 -> 6."""
    b = math.sqrt(4 / 6)
    assert b == pytest.approx(0.8165, abs=1e-4) and b * b == pytest.approx(0.6667, abs=1e-4)
    x, mean, variance = torch.randn(5, 3).double(), torch.randn(3).double(), torch.rand(3).double() + 0.5
    before = nn.functional.batch_norm(x, mean, variance, eps=0.0)
    torch.testing.assert_close(nn.functional.batch_norm(b * x, b * mean, b * b * variance, eps=0.0), before)


@pytest.mark.parametrize(
    ("family", "args", "kind"),
    [
        ("vit", {"embed_dim": 20, "num_heads": 5}, "exact"),
        ("resnet", {"channels": [6, 11, 12, 15]}, "exact"),
        ("efficientnet", None, "exact"),
        ("convnext", {"dims": [6, 8, 10, 12]}, "lossy"),
    ],
)
def test_variance_transfer_keeps_the_function(family, args, kind, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source")
    target = {"model_args": args} if args else {"scale": {"width": 1.5}}
    content = {"target": target, "width": {"operator": "variance_transfer", "eps": "told"}}
    content["allow_lossy"] = kind == "lossy"
    result = grown(source, content, tmp_path / "out")
    assert result.summary.promise == kind, result.summary.reasons
    apart = difference(load(source), load(result.out), TINY[family].inputs())
    assert (apart < EXACT) == (kind == "exact")


def test_rescaling_is_lossy_and_says_so(tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source")
    found = resolved(source, plan({"channels": [6, 11, 12, 15]}, "variance_transfer", rescale=True)).promise
    assert found.reasons == ("rescale multiplies the trained weights by sqrt(h / h')",)


def test_random_keeps_nothing_or_what_was_there(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    before = load_file(source / "model.safetensors")
    for parts in ("all", "new"):
        result = grown(source, plan(WIDER["vit"], "random", parts=parts), tmp_path / parts)
        assert result.summary.promise == "lossy"
        after = load_file(result.out / "model.safetensors")
        fc1, bias = after["blocks.0.mlp.fc1.weight"], after["head.bias"]
        kept = torch.equal(fc1[:24, :8], before["blocks.0.mlp.fc1.weight"])
        assert kept == (parts == "new") == torch.equal(bias, before["head.bias"])
        assert fc1[24:].any() and float(fc1[24:].std()) < 0.1  # timm's truncated normal of 0.02
    again = grown(source, plan(WIDER["vit"], "random"), tmp_path / "again")
    first, second = (load_file(folder / "model.safetensors") for folder in (again.out, tmp_path / "all"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_random_values_stand_at_the_new_places():
    maps = (axis(padded(1, 2, copies=1), summed=False), axis(padded(1, 2, copies=1), summed=True))
    layer = Layer("x", maps, 0, initial=lambda: torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert random.grow(Random(parts="new"), torch.tensor([[9.0]]), layer).tolist() == [[9, 2], [3, 4]]


@pytest.mark.parametrize(
    ("width", "warned"), [({"operator": "net2net"}, False), ({"operator": "net2net", "split": "equal"}, True)]
)
def test_an_equal_split_is_warned_of(width, warned, tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source")
    result = grown(source, {"target": {"model_args": {"channels": [5, 9, 9, 13]}}, "width": width}, tmp_path / "out")
    assert any("equal split" in line for line in result.summary.growth()) == warned


@pytest.mark.parametrize(
    ("layers", "options", "warned"),
    [
        ([1, 1, 1, 1], {}, "no layer has others"),
        ([1, 1, 1, 1], {"bank": "sub_block"}, None),
        ([2, 1, 1, 1], {}, None),
        ([2, 1, 1, 1], {"gain": 0}, "gain 0 and the coefficients"),
        ([2, 1, 1, 1], {"coefficients": "zero"}, "gain 0 and the coefficients"),
        ([2, 1, 1, 1], {"coefficients": "copy"}, "gain 0 and the coefficients"),
        ([2, 1, 1, 1], {"coefficients": "random"}, None),
        ([2, 1, 1, 1], {"compensate": False, "gain": 1.0}, "one direction"),
        ([3, 1, 1, 1], {"compensate": False, "gain": 1.0}, None),
    ],
    ids=str,
)
def test_a_mixture_of_nothing_is_warned_of(layers, options, warned, tmp_path):
    """Copies of all channels can be exchanged together: their gradients are the same."""
    tiny = TINY["bottleneck"].with_args(layers=layers)
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": dict(WIDER["bottleneck"])}, "width": {"operator": "mixture", **options}}
    result = grown(source, plan, tmp_path / "out")
    found = [line for line in result.summary.growth() if line.startswith("copies: ")]
    assert [warned in line for line in found] == ([True] if warned else [])
    model = load(result.out)
    model(tiny.inputs(4)).square().sum().backward()
    gradient = model.layer1[0].conv2.weight.grad
    same = torch.allclose(gradient[:4, :4], gradient[4:, 4:], rtol=1e-9, atol=0)
    assert same == (warned is not None)


@pytest.mark.parametrize(("family", "target", "width", "overrides", "alike", "why"), COPIES.values(), ids=COPIES)
def test_which_copies_stay_alike(family, target, width, overrides, alike, why, tmp_path):
    tiny = TINY[family].with_args(layers=[2, 1, 1, 1]) if family == "resnet" else TINY[family]
    source = write_folder(tiny, tmp_path / "source")
    depth = {"depth": {"operator": "zero_out"}} if "depth" in target else {}
    plan = {"target": {"model_args": dict(target)}, "width": width, "overrides": overrides, **depth}
    found = [line for line in summarise(resolved(source, plan)).growth() if line.startswith("copies: ")]
    assert bool(found) == (alike is not None)
    assert all(line.startswith(f"copies: those of {alike}") and why in line for line in found), found


def twins(folder, tiny, steps: int = 50) -> float:
    """How near the nearest two rows of a hidden layer are after some steps of Adam, relative to their size."""
    model = load(folder).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = tiny.inputs(8)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), torch.arange(8) % 5).backward()
        optimizer.step()
    rows: Tensor = model.get_parameter("blocks.0.mlp.fc2.weight").detach().T
    return float(torch.nn.functional.pdist(rows).min() / rows.norm(dim=1).mean())


@pytest.mark.parametrize(
    "operator", ["tile", "net2net", "fpi", "mixture", "centre_zero", "lemon", "zero", "variance_transfer"]
)
def test_no_operator_leaves_twins_by_default(operator, tmp_path):
    """After fifty steps no two hidden units are read alike: copies have parted."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    grown(
        source,
        plan(WIDER["vit"], operator, **({"compensate": True} if operator == "mixture" else {})) | {"allow_lossy": True},
        tmp_path / "out",
    )
    assert twins(tmp_path / "out", TINY["vit"]) > 1e-3
