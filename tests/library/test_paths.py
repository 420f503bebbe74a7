"""Paths into nested configurations: what is named changes, everything else is the very object, in the same order."""

from dataclasses import dataclass
from typing import Any

import pytest

from growtool.library.paths import covers, places, repeated, set_at


@dataclass(frozen=True)
class Stage:
    d: int
    c: int = 8
    more: Any = None


STAGES = (Stage(1), Stage(2, more={"dim": 4}), (Stage(3), Stage(4, more={"dim": 6})))
CONFIG = {"blocks": STAGES, "stage1": [8, 1, "x"], "stage2": [16, 2, "y"], "type": "a"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("cfg.type", [("type",)]),
        ("cfg.blocks.1.d", [("blocks", "1", "d")]),
        ("cfg.blocks.*.d", [("blocks", "0", "d"), ("blocks", "1", "d")]),
        ("cfg.blocks.*.*.more.dim", [("blocks", "2", "1", "more", "dim")]),
        ("cfg.stage*.1", [("stage1", "1"), ("stage2", "1")]),
        ("cfg.blocks.9.d", []),
    ],
)
def test_where_a_path_leads(path, found):
    assert places(CONFIG, path) == found


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"cfg.blocks.1.d": 5}, {"blocks": (Stage(1), Stage(5, more={"dim": 4}), STAGES[2])}),
        ({"cfg.blocks.*.d": [5, 6]}, {"blocks": (Stage(5), Stage(6, more={"dim": 4}), STAGES[2])}),
        ({"cfg.stage*.1": 7}, {"stage1": [8, 7, "x"], "stage2": [16, 7, "y"]}),
        ({"cfg.stage1": [1, 2]}, {"stage1": [1, 2]}),
        ({"cfg.stage*.1": 7, "cfg.stage2.1": 3}, {"stage1": [8, 7, "x"], "stage2": [16, 3, "y"]}),
    ],
)
def test_values_are_set(settings, changed):
    before = repr(CONFIG)
    found = set_at(CONFIG, settings)
    assert found == {**CONFIG, **changed}
    assert list(found) == list(CONFIG)
    assert repr(CONFIG) == before
    assert all(found[key] is CONFIG[key] for key in CONFIG.keys() - changed.keys())


def test_entries_are_repeated_each_a_copy_of_its_own():
    lists = [[{"c": 1}], [{"c": 2}, {"c": 3}]]
    found = repeated(lists, {"a.*.*.times": [2, 1, 3], "a.0.times": 2, "a.0.0.c": 9})
    assert found == [[{"c": 1}, {"c": 1}]] * 2 + [[{"c": 2}, {"c": 3}, {"c": 3}, {"c": 3}]]
    assert len({id(entry) for stage in found for entry in stage}) == 8
    assert repeated((1, "M", 2), {"a.*.times": [1, 1, 2]}) == (1, "M", 2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cfg.blocks.7.d": 1}, r"^cfg\.blocks\.7\.d: found nothing at cfg\.blocks\.7, expected one of 0, 1, 2$"),
        ({"cfg.block.7": 1}, r"^cfg\.block\.7: found nothing at cfg\.block, expected one of blocks, stage1, .*type$"),
        ({"cfg.type.x": 1}, r"^cfg\.type\.x: found nothing at cfg\.type\.x, expected nothing below it$"),
        ({"cfg.blocks.*.d": [1]}, r"^cfg\.blocks\.\*\.d: found 1 values, expected 2, one for each place"),
        ({"cfg.blocks.*.times": 0}, r"^cfg\.blocks\.\*\.times: found 0, expected how many times .*1 or more$"),
        ({"cfg.type.times": 2}, r"^cfg\.type\.times: found no list around it, expected the entry of one$"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_path(settings, message):
    with pytest.raises(ValueError, match=message):
        repeated(set_at(CONFIG, settings), settings)


@pytest.mark.parametrize(
    ("path", "other", "holds"),
    [
        ("a.*.d", "a.0.d", True),
        ("a.*", "a.*.d", True),
        ("a.stage*.d", "a.stage1.d", True),
        ("a.0.d", "a.*.d", False),
        ("a.*.d", "a.*.c", False),
        ("a.*", "a.*.times", False),
        ("a.*.times", "a.0.times", True),
    ],
)
def test_one_path_covers_another(path, other, holds):
    assert covers(path, other) == holds
