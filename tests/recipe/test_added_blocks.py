"""What adds blocks is told by names and shapes: blocks keep their order, and each new one is like an old one or not."""

import pytest

from growtool.errors import PlanError
from growtool.library.values import as_lists, leaves, scaled_at, with_leaves
from growtool.plan.depth import ZeroOut
from growtool.recipe.blocks.placing import place_blocks
from growtool.recipe.target.added_blocks import adds_blocks
from tests.support.blocks import alternating
from tests.support.models import Tiny, difference, grown, load, resolved, write_folder

CONV, ATTENTION, FIRST = {"conv": (4, 4)}, {"qkv": (12, 4), "proj": (4, 4)}, {"conv": (4, 2)}


def stage(*blocks, name: str = "stage.{}", head: tuple[int, ...] = (4, 4)) -> dict[str, tuple[int, ...]]:
    places = ((name.format(i), block) for i, block in enumerate(blocks))
    return {f"{path}.{key}": shape for path, block in places for key, shape in block.items()} | {"head": head}


@pytest.mark.parametrize(
    ("before", "after", "adds", "alike"),
    [
        (stage(CONV), stage(CONV, CONV), True, True),
        (stage(FIRST, CONV), stage(FIRST, CONV, CONV), True, True),
        (stage(CONV, ATTENTION), stage(CONV, CONV, ATTENTION), True, True),
        (stage(CONV, CONV, name="s1.b{}"), stage(CONV, CONV, CONV, name="s1.b{}"), True, True),
        (stage(stage(CONV)), stage(stage(CONV, CONV)), True, True),
        (stage(FIRST), stage(FIRST, CONV), True, False),
        (stage(CONV, ATTENTION), stage(ATTENTION, CONV, CONV), False, False),
        (stage(CONV), stage(CONV, CONV, head=(8, 4)), False, False),
        (stage(CONV), stage({"conv": (8, 4)}, CONV), True, False),
        (stage(CONV), stage(CONV) | {"neck": (4, 4)}, False, False),
        (stage(CONV, CONV), stage(CONV), False, False),
        (stage(CONV), stage(CONV), False, False),
    ],
    ids=["one more", "after a first one", "before a last one", "named", "nested", "unlike any", "another order",
         "wider as well", "another shape", "elsewhere", "fewer", "the same"],
)  # fmt: skip
def test_added_blocks(before, after, adds, alike):
    assert (adds_blocks(before, after, alike=False), adds_blocks(before, after, alike=True)) == (adds, alike)


def test_values_keep_their_form():
    nested = ((1, 4, 0), (1, 4, 0))
    assert scaled_at(nested, 2) == ((2, 8, 0), (2, 8, 0)) and leaves(nested) == (1, 4, 0, 1, 4, 0)
    assert with_leaves(nested, range(6)) == ((0, 1, 2), (3, 4, 5)) and with_leaves(3, [5]) == 5
    assert as_lists(("a", (1, 2))) == ["a", [1, 2]] and scaled_at((2, "a", 1.5), 2) == (4, "a", 3.0)


EDGENEXT = Tiny(
    "edgenext_xx_small", {"dims": [8, 8, 16, 16], "heads": [2] * 4, "depths": [1, 2, 2, 2], "num_classes": 5}
)
CROSSVIT = Tiny(
    "crossvit_tiny_240", {"embed_dim": [8, 16], "num_heads": [2, 2], "depth": [[1, 2, 0]] * 2, "num_classes": 5}, 240
)


@pytest.mark.parametrize(
    ("tiny", "args"),
    [(EDGENEXT, {"depths": [2, 4, 4, 4]}), (CROSSVIT, {"depth": [[2, 4, 0]] * 2})],
    ids=["a stage ends in attention", "depths within depths"],
)
def test_scaled_depth_reaches_what_arguments_reach(tiny, args, tmp_path):
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out"}}
    recipe = resolved(source, plan)
    assert {name: recipe.target.model_args[name] for name in args} == args
    assert grown(source, plan, tmp_path / "out").summary.promise == "exact"
    assert difference(load(source), load(tmp_path / "out"), tiny.inputs()) < 1e-10


@pytest.mark.parametrize(
    ("source", "target", "made_from", "new"),
    [
        ("aab", "aaaab", [0, 0, 1, 1, 2], [1, 3]),  # each kind on its own keeps the order
        ("aabaab", "aabaabaab", [0, 1, 2, 3, 4, 5, 4, 4, 5], [6, 7, 8]),
        ("abab", "aababb", [0, 0, 1, 2, 3, 3], [1, 5]),
    ],
)
def test_kinds_that_alternate_keep_their_order(source, target, made_from, new):
    placed = place_blocks([alternating(source, target)], ZeroOut()).placed["s."]
    assert [placed[j].source for j in range(len(target))] == made_from
    assert [j for j in placed if placed[j].new] == new and all(placed[j].start == "zero_out" for j in new)


def test_kinds_in_another_order_are_refused():
    with pytest.raises(PlanError, match=r"s\.\*: blocks of 2 kinds alternate, and 5 blocks would put them"):
        place_blocks([alternating("abab", "abbaa")], ZeroOut())
    with pytest.raises(PlanError, match=r"s\.\*: blocks of 2 kinds alternate, and 2 blocks would put them"):
        place_blocks([alternating("ab", "ba")], ZeroOut())
