"""Paths in `model_args`: names for places inside nested configurations.

Many of timm's files keep their numbers in dataclasses, dicts and lists within each other. A path starts with the
argument, and goes on with fields, keys and positions from 0:

    "cfg.blocks.1.d": 4                 one place
    "cfg.blocks.*.d": [2, 4, 6, 2]      `*` is any number; the list has a value for each place, in order
    "cfg.stage*.3": 2                   `*` within a name; the one value is for all places
    "cfgs.*.*.times": [1, 1, 2, 3]      how many times each entry of a list stands there, as copies of it

Values are set first (`set_at`) and entries are repeated then (`repeated`), so that all paths name places of the model
as timm registers it.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

TIMES = "times"
Place = tuple[str, ...]
Edit = Callable[[Any], list[Any]]
"""Returns what stands in place of a value: one value, or any number if it is the entry of a list."""


def is_path(name: str) -> bool:
    """Return whether the name of an argument is a path into one."""
    return "." in name


def root_of(path: str) -> str:
    """Return the argument that a path leads into."""
    return path.partition(".")[0]


def is_repeat(path: str) -> bool:
    """Return whether a path says how many times an entry stands in its list."""
    return path.endswith(f".{TIMES}")


def covers(path: str, other: str) -> bool:
    """Return whether each place that another path leads to is a place of this path, or lies inside one."""
    ours, theirs = path.split("."), other.split(".")
    if is_repeat(path) != is_repeat(other) or len(ours) > len(theirs):
        return False
    return all(a in (b, re.sub(r"\d+", "*", b)) for a, b in zip(ours, theirs, strict=False))


def set_at(value: Any, settings: Mapping[str, Any]) -> Any:
    """Return an argument's value with other values in some places; paths that end in `times` are ignored.

    Args:
        value: the argument's value, which is not changed.
        settings: path -> value, or a list of values for a path with `*`.

    Raises:
        ValueError: a path leads nowhere, or the number of values is not that of the places.
    """
    for path, new in settings.items():
        if not is_repeat(path):
            reached = _places_or_raise(value, path, path)
            items = zip(reached, _values(path, new, reached), strict=True)
            (value,) = _edited(value, {place: partial(_set, new=item) for place, item in items})
    return value


def repeated(value: Any, settings: Mapping[str, Any]) -> Any:
    """Return an argument's value with some entries of its lists repeated.

    Args:
        value: the argument's value, which is not changed.
        settings: path of an entry with `.times` at its end -> how many times it stands there, or a list of such
            numbers; other paths are ignored.

    Raises:
        ValueError: a path leads nowhere, or to something that is no entry of a list, or a number is not a whole number
            from 1.
    """
    edits: dict[Place, Edit] = {}
    for path, new in settings.items():
        if is_repeat(path):
            reached = _places_or_raise(value, path.removesuffix(f".{TIMES}"), path)
            counts = _values(path, new, reached)
            for place, count in zip(reached, counts, strict=True):
                if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                    raise ValueError(
                        f"{path}: found {count!r}, expected how many times the entry stands there, 1 or more"
                    )
                if not isinstance(_at(value, place[:-1]), list | tuple):
                    raise ValueError(f"{path}: found no list around it, expected the entry of one")
                edits[place] = partial(_copied, count=count)
    (result,) = _edited(value, edits)
    return result


def places(value: Any, path: str) -> list[Place]:
    """Return the places that a path leads to inside an argument's value; none if it leads nowhere.

    Args:
        value: the value of the argument that the path starts with.
        path: a path without `.times`.
    """
    reached: list[tuple[Place, Any]] = [((), value)]
    for part in path.split(".")[1:]:
        pattern = re.compile(re.escape(part).replace(r"\*", r"\d+"))
        reached = [
            ((*place, key), child) for place, held in reached for key, child in children(held) if pattern.fullmatch(key)
        ]
    return [place for place, _ in reached]


def value_at(value: Any, path: str) -> list[Any]:
    """Return the values in the places that a path leads to."""
    return [_at(value, place) for place in places(value, path)]


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a list, dict or dataclass, each with its position, key or field; none of anything else."""
    if isinstance(value, list | tuple):
        yield from ((str(i), part) for i, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((key, part) for key, part in value.items() if isinstance(key, str))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)


def _places_or_raise(value: Any, inner: str, path: str) -> list[Place]:
    """Return the places of `inner`, which is `path` without `.times`; raise ValueError if there are none."""
    reached = places(value, inner)
    if reached:
        return reached
    parts = inner.split(".")
    # The longest beginning that leads somewhere; that of one part is the argument itself.
    known = next(n for n in range(len(parts) - 1, 0, -1) if n == 1 or places(value, ".".join(parts[:n])))
    held = sorted({key for part in value_at(value, ".".join(parts[:known])) for key, _ in children(part)}, key=_natural)
    there = f"one of {', '.join(held)}" if held else "nothing below it"
    raise ValueError(f"{path}: found nothing at {'.'.join(parts[: known + 1])}, expected {there}")


def _natural(key: str) -> tuple[int, str]:
    """Return a key that sorts names before positions, and positions by number."""
    return (int(key), "") if key.isdecimal() else (-1, key)


def _values(path: str, new: Any, reached: list[Place]) -> list[Any]:
    """Return the value for each place of a path."""
    if "*" not in path:
        return [new]
    if not isinstance(new, list | tuple):
        return [new] * len(reached)
    if len(new) != len(reached):
        raise ValueError(
            f"{path}: found {len(new)} values, expected {len(reached)}, one for each place (or one for all)"
        )
    return list(new)


def _at(value: Any, place: Place) -> Any:
    for key in place:
        value = dict(children(value))[key]
    return value


def _edited(value: Any, edits: Mapping[Place, Edit]) -> list[Any]:
    """Return what stands in place of a value: parts in the places inside it are edited first, then the value itself.

    Parts without a place are the same objects as before.
    """
    inner: dict[str, dict[Place, Edit]] = {}
    for place, edit in edits.items():
        if place:
            inner.setdefault(place[0], {})[place[1:]] = edit
    if inner:
        value = _with(value, {key: _edited(_at(value, (key,)), deeper) for key, deeper in inner.items()})
    return edits[()](value) if () in edits else [value]


def _set(old: Any, *, new: Any) -> list[Any]:
    """Return the new value, a list as a tuple where the old value is one, as JSON has no tuples."""
    return [tuple(new) if isinstance(old, tuple) and isinstance(new, list) else new]


def _copied(entry: Any, *, count: int) -> list[Any]:
    """Return an entry and copies of it, as timm's builders pop entries of the dicts that they read (`block_args`)."""
    return [entry, *(copy.deepcopy(entry) for _ in range(count - 1))]


def _with(value: Any, made: Mapping[str, list[Any]]) -> Any:
    """Return a configuration with other parts, by key; in a list any number of entries may take the place of one."""
    if isinstance(value, list | tuple):
        entries = [entry for key, part in children(value) for entry in made.get(key, [part])]
        return entries if isinstance(value, list) else tuple(entries)
    single = {key: entries[0] for key, entries in made.items()}
    return {**value, **single} if isinstance(value, dict) else dataclasses.replace(value, **single)
