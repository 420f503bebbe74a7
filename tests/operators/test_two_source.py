"""Two checkpoints in a net twice as wide: its logits are the mean of theirs, or the plan says why not."""

import pytest
import torch

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import Expansion, tiled
from growtool.errors import PlanError
from growtool.operators.base import Layer
from growtool.operators.width import two_source
from growtool.plan.width import TwoSource
from growtool.trace import ChannelGroup, GroupPair, PairedAxis
from tests.support.models import TINY, WIDER, Tiny, grown, load, resolved, write_folder

DEEP = Tiny("resnet18d", {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 8], "stem_width": 4, "num_classes": 5})


def plan(target: dict, second, **options) -> dict:
    return {"target": target, "second": str(second), "width": {"operator": "two_source", **options}}


def sources(tiny: Tiny, folder):
    return write_folder(tiny, folder / "a"), write_folder(tiny, folder / "b", seed=5)


@pytest.mark.parametrize(
    ("tiny", "target"),
    [
        (DEEP, {"model_args": {"channels": [8, 16, 16, 16], "stem_width": 8}}),
        (TINY["densenet"], {"model_args": dict(WIDER["densenet"])}),
        (TINY["efficientnet"], {"scale": {"width": 2}}),
    ],
    ids=["resnet with a deep stem", "densenet", "efficientnet"],
)
def test_batchnorm_networks_give_the_mean_in_both_modes(tiny, target, tmp_path):
    a, b = sources(tiny, tmp_path)
    result = grown(a, plan(target, b), tmp_path / "out")
    assert result.summary.promise == "exact" and result.proof is not None
    assert result.proof.comparison.relative_difference < 1e-12
    inputs = tiny.inputs(4)
    with torch.no_grad():
        for train in (False, True):
            first, second, both = (load(folder).train(train)(inputs) for folder in (a, b, tmp_path / "out"))
            torch.testing.assert_close(both, (first + second) / 2, rtol=0, atol=1e-9 * float(both.abs().max()))
    assert float((first - second).abs().max()) > 1e-3 * float(first.abs().max())


def test_a_group_over_both_halves_is_lossy(tmp_path):
    """One group of all channels: its mean is over both sources."""
    tiny = TINY["efficientnet"].with_args(norm_layer="groupnorm1")
    a, b = sources(tiny, tmp_path)
    result = grown(a, plan({"scale": {"width": 2}}, b) | {"allow_lossy": True}, tmp_path / "out")
    assert result.summary.promise == "lossy" and "GroupNorm over the channels of both" in result.summary.reasons[0]
    assert result.proof is not None and result.proof.comparison.relative_difference > 1e-3


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("vit", "blocks.0.norm1: LayerNorm over the channels of both sources"),
        ("convnext", "stem.1: LayerNorm over the channels of both sources"),
        ("resnet", "bn1: native_batch_norm with a parameter that both sources would need their own of"),
    ],
)
def test_where_the_halves_meet_the_plan_says_so(family, reason, tmp_path):
    a, b = sources(TINY[family], tmp_path)
    result = grown(a, plan({"model_args": dict(WIDER[family])}, b) | {"allow_lossy": True}, tmp_path / "out")
    assert result.summary.promise == "lossy" and reason in result.summary.reasons
    assert result.proof is not None and result.proof.comparison.relative_difference > 1e-3


def test_a_gain_is_lossy(tmp_path):
    a, b = sources(TINY["densenet"], tmp_path)
    recipe = resolved(a, plan({"model_args": dict(WIDER["densenet"])}, b, gain=0.1))
    assert recipe.promise.reasons == ("a gain mixes the two sources",)


def test_another_model_is_refused(tmp_path):
    a = write_folder(TINY["densenet"], tmp_path / "a")
    b = write_folder(TINY["densenet"].with_args(growth_rate=8), tmp_path / "b")
    with pytest.raises(
        PlanError, match=r"second: .* holds densenet121, expected densenet121 with the shapes of .*differ$"
    ):
        resolved(a, plan({"model_args": {"growth_rate": 8}}, b))


def test_a_lone_second_file_holds_the_model_of_the_first(tmp_path):
    a, b = sources(TINY["densenet"], tmp_path)
    lone = (b / "model.safetensors").rename(tmp_path / "lone.safetensors")
    recipe = resolved(a, plan({"model_args": dict(WIDER["densenet"])}, lone))
    assert recipe.second is not None and recipe.second.spec == recipe.source.spec


def test_other_multiples_are_refused(tmp_path):
    a, b = sources(TINY["densenet"], tmp_path)
    with pytest.raises(PlanError, match="two_source takes whole multiples; choose widths that are twice"):
        resolved(a, plan({"model_args": {"growth_rate": 12}}, b))


@pytest.mark.parametrize(
    ("width", "second", "message"),
    [
        ({"operator": "two_source"}, None, "width.operator two_source needs `second: PATH`"),
        ({"operator": "tile"}, "x", "second: only `width: {operator: two_source}` takes a second checkpoint"),
    ],
)
def test_second_goes_with_two_source(width, second, message, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "a")
    content = {"target": {"scale": {"width": 2}}, "width": width, **({"second": second} if second else {})}
    with pytest.raises(PlanError, match=message):
        resolved(source, content)


def axis(expansion: Expansion, *, summed: bool) -> AxisMap:
    growth = GroupPair(ChannelGroup(expansion.size), ChannelGroup(len(expansion.index)))
    return axis_map(PairedAxis(((growth,),)), {growth: expansion}, frozenset([growth] if summed else []))


def test_by_hand():
    """A weight 2 and a weight 5 on the diagonal; a classifier reads half of each; a bias is the mean."""
    rows, columns = axis(tiled(1, 2), summed=False), axis(tiled(1, 2), summed=True)

    def made(maps: tuple[AxisMap, ...], mine, theirs) -> list:
        layer = Layer("x", maps, 0, second=lambda: torch.tensor(theirs))
        return two_source.grow(TwoSource(), torch.tensor(mine), layer).tolist()

    assert made((rows, columns), [[2.0]], [[5.0]]) == [[2.0, 0.0], [0.0, 5.0]]
    assert made((AxisMap.unchanged(1), columns), [[2.0]], [[5.0]]) == [[1.0, 2.5]]
    assert made((rows, AxisMap.unchanged(1)), [[2.0]], [[5.0]]) == [[2.0], [5.0]]
    assert made((AxisMap.unchanged(1),), [2.0], [5.0]) == [3.5]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_combinations_are_as_large_as_the_plan_says(scale):
    """Of small weights, too."""
    maps = (axis(tiled(1, 2), summed=False), axis(tiled(1, 2), summed=True))
    layer = Layer("x", maps, 0, second=lambda: torch.tensor([[5.0 * scale]]))
    W = torch.tensor([[2.0 * scale]])
    [[_, above], [below, _]] = two_source.grow(TwoSource(gain=0.5), W, layer)
    assert abs(float(above)) == pytest.approx(scale) and abs(float(below)) == pytest.approx(scale)
