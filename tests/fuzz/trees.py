"""Edits of a document of JSON or YAML: a value of another type, an extreme one, an entry gone, moved or twice."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 100_000, 10**9, 2**63, -(10**30), 0.5, -0.0, 1e-320, 1e308, float("nan"),
    float("inf"), "", "a", "0", "1", "nan", "no", "ß\x00\x1b[31m", "[bold]", "[/]", "..", ".", "\ud800",
    "x" * 3000,
    "resnet18", "resnet50", "test_vit", "tile", "net2net", "zero_out", "F32", "I64", [], {}, [[]], [None], [1, 1],
    [0] * 50, ["a", "a"], {"a": {}}, {"": 1}, {"0": "x", "1": "y"}, {"operator": "tile"}, {"width": 2}, [1, "a", None],
)  # fmt: skip
Key = str | int
Place = tuple[Key, ...]


def places(tree: Any, at: Place = ()) -> list[Place]:
    """Every node of the document but its root."""
    found: list[Place] = []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in entries:
        found += [(*at, key), *places(value, (*at, key))]
    return found


def get(tree: Any, place: Place) -> Any:
    """The node at a place."""
    for key in place:
        tree = tree[key]
    return tree


def edit(tree: Any, random: Random) -> Any:
    """A copy of the document with one edit."""
    tree = copy.deepcopy(tree)
    all_places = places(tree)
    if not all_places or random.random() < 0.03:
        return copy.deepcopy(random.choice(JUNK))
    place = random.choice(all_places)
    parent, key = get(tree, place[:-1]), place[-1]
    value = parent[key]
    what = random.choice("delete junk junk junk number wrap swap twice rename text".split())
    if what == "delete":
        del parent[key]
    elif what == "junk":
        parent[key] = copy.deepcopy(random.choice(JUNK))
    elif what == "number":
        parent[key] = _other_number(value, random)
    elif what == "wrap":
        parent[key] = random.choice([[copy.deepcopy(value)], {"a": copy.deepcopy(value)}, [value, value]])
    elif what == "swap":
        parent[key] = copy.deepcopy(get(tree, random.choice(all_places)))
    elif what == "twice" and isinstance(parent, list):
        parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(value))
    elif what in ("rename", "twice") and isinstance(parent, dict):
        parent[random.choice(["", "a", f"{key}s", f" {key}", str(key).upper(), *map(str, list(parent)[:3])])] = value
        if what == "rename":
            del parent[key]
    else:
        parent[key] = str(value) if not isinstance(value, str) else random.choice([value * 2, value[:-1], value + "ü"])
    return tree


def _other_number(value: Any, random: Random) -> Any:
    if not isinstance(value, int | float):
        return random.choice([0, 1, -1, 10**12])
    return random.choice([value + 1, value - 1, -value, value * 2, value * 1000, value / 2, float(value), str(value)])
