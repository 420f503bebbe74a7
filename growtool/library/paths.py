"""Places inside nested configurations, named by paths as they stand in `model_args`.

Many of timm's files keep their numbers in dataclasses, dicts and lists within each other. A path names a place there by
its argument, fields, keys and positions from 0:

    "cfg.blocks.1.d": 4                 one place
    "cfg.blocks.*.d": [2, 4, 6, 2]      `*` is any number; a list has a value for each place, in order
    "cfg.stage*.3": 2                   and one value is meant for all
    "cfgs.*.*.times": [1, 1, 2, 3]      an entry of a list stands so many times, each a copy of it

What stands where is changed first and repeated then, so the places are those of the model as timm registers it.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

TIMES = "times"
Place = tuple[str, ...]


def is_path(name: str) -> bool:
    """Whether the name of an argument is a path into one."""
    return "." in name


def root_of(path: str) -> str:
    """The argument that a path leads into."""
    return path.partition(".")[0]


def is_repeat(path: str) -> bool:
    """Whether a path says how many times an entry stands in its list."""
    return path.endswith(f".{TIMES}")


def covers(path: str, other: str) -> bool:
    """Whether a path leads, among others, to all places that the other one leads to, or to what holds them."""
    ours, theirs = path.split("."), other.split(".")
    if is_repeat(path) != is_repeat(other) or len(ours) > len(theirs):
        return False
    return all(a in (b, re.sub(r"\d+", "*", b)) for a, b in zip(ours, theirs, strict=False))


def set_at(value: Any, settings: Mapping[str, Any]) -> Any:
    """An argument with other values in some places; `times` is left to `repeated`.

    Args:
        value: of the argument; stays as it is.
        settings: path -> value, or list of values.

    Raises:
        ValueError: a path leads nowhere, or there is another number of values than of places.
    """
    for path, new in settings.items():
        if not is_repeat(path):
            found = _found(value, path, path)
            value = _changed(value, dict(zip(found, _values(path, new, found), strict=True)))
    return value


def repeated(value: Any, settings: Mapping[str, Any]) -> Any:
    """An argument with some entries of its lists standing there several times.

    Args:
        value: of the argument; stays as it is.
        settings: path of an entry, `.times` at its end -> number, or list of numbers; other paths are left out.

    Raises:
        ValueError: a path leads nowhere or to no entry of a list, or a number is none.
    """
    times: dict[Place, int] = {}
    for path, new in settings.items():
        if is_repeat(path):
            found = _found(value, path.removesuffix(f".{TIMES}"), path)
            counts = _values(path, new, found)
            for place, count in zip(found, counts, strict=True):
                if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                    raise ValueError(
                        f"{path}: found {count!r}, expected how many times the entry stands there, 1 or more"
                    )
                if not isinstance(_at(value, place[:-1]), list | tuple):
                    raise ValueError(f"{path}: found no list around it, expected the entry of one")
                times[place] = count
    return _repeated(value, times) if times else value


def places(value: Any, path: str) -> list[Place]:
    """Where a path leads in an argument's value; nowhere, several places with `*`.

    Args:
        value: of the argument that the path starts with.
        path: without `.times`.
    """
    found: list[tuple[Place, Any]] = [((), value)]
    for part in path.split(".")[1:]:
        pattern = re.compile(re.escape(part).replace(r"\*", r"\d+"))
        found = [
            ((*place, key), child) for place, held in found for key, child in children(held) if pattern.fullmatch(key)
        ]
    return [place for place, _ in found]


def value_at(value: Any, path: str) -> list[Any]:
    """What stands in the places that a path leads to."""
    return [_at(value, place) for place in places(value, path)]


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """What a configuration holds, each with its position, key or field."""
    if isinstance(value, list | tuple):
        yield from ((str(i), part) for i, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((key, part) for key, part in value.items() if isinstance(key, str))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)


def _found(value: Any, inner: str, path: str) -> list[Place]:
    found = places(value, inner)
    if found:
        return found
    parts = inner.split(".")
    known = next(n for n in range(len(parts) - 1, 0, -1) if n == 1 or places(value, ".".join(parts[:n])))
    held = sorted({key for part in value_at(value, ".".join(parts[:known])) for key, _ in children(part)}, key=_natural)
    there = f"one of {', '.join(held)}" if held else "nothing below it"
    raise ValueError(f"{path}: found nothing at {'.'.join(parts[: known + 1])}, expected {there}")


def _natural(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isdecimal() else (-1, key)


def _values(path: str, new: Any, found: list[Place]) -> list[Any]:
    if "*" not in path:
        return [new]
    if not isinstance(new, list | tuple):
        return [new] * len(found)
    if len(new) != len(found):
        raise ValueError(f"{path}: found {len(new)} values, expected {len(found)}, one for each place (or one for all)")
    return list(new)


def _at(value: Any, place: Place) -> Any:
    for key in place:
        value = dict(children(value))[key]
    return value


def _changed(value: Any, new: Mapping[Place, Any]) -> Any:
    """The value with others in some places; what holds none of them is the very object."""
    if () in new:
        return _like(value, new[()])
    parts: dict[str, dict[Place, Any]] = {}
    for (key, *rest), item in new.items():
        parts.setdefault(key, {})[tuple(rest)] = item
    return _with(value, {key: [_changed(_at(value, (key,)), inner)] for key, inner in parts.items()})


def _like(old: Any, new: Any) -> Any:
    """A list from JSON where the constructor has a tuple."""
    return tuple(new) if isinstance(old, tuple) and isinstance(new, list) else new


def _repeated(value: Any, times: Mapping[Place, int]) -> Any:
    parts: dict[str, dict[Place, int]] = {}
    for (key, *rest), count in times.items():
        parts.setdefault(key, {})[tuple(rest)] = count
    made = {}
    for key, inner in parts.items():
        entry = _at(value, (key,))
        deeper = {place: count for place, count in inner.items() if place}
        entry = _repeated(entry, deeper) if deeper else entry
        # each a copy of its own: constructors take what they need out of dicts
        made[key] = [entry, *(copy.deepcopy(entry) for _ in range(inner.get((), 1) - 1))]
    return _with(value, made)


def _with(value: Any, made: Mapping[str, list[Any]]) -> Any:
    """A configuration with other parts; of a list, any number for one."""
    if isinstance(value, list | tuple):
        entries = [entry for key, part in children(value) for entry in made.get(key, [part])]
        return entries if isinstance(value, list) else tuple(entries)
    single = {key: entries[0] for key, entries in made.items()}
    return {**value, **single} if isinstance(value, dict) else dataclasses.replace(value, **single)
