"""The numbers inside a model's nested configurations, gathered into the paths that `growtool_open` takes.

Places that differ by their positions alone are one group, written with `*`: the blocks of every stage, the channels of
every stage. Where the innermost list is a record (kernel, hidden channels, channels), its positions mean different
things, so they are groups of their own as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from growtool.library.paths import TIMES, children, places, value_at
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import configuration
from growtool.library.values import Value

_DIGITS = re.compile(r"\d+")


def nested_numbers(spec: ModelSpec) -> dict[str, Value]:
    """Path -> the numbers in its places, for every group of places that hold numbers."""
    found: dict[str, Value] = {}
    for name, value in configuration(spec).items():
        for path in dict.fromkeys(path for place in _leaves(value) for path in _groups(name, place)):
            numbers = [_value(part) for part in value_at(value, path)]
            if None not in numbers and any(isinstance(part, int | float) and part for part in numbers):
                found[path] = tuple(numbers) if "*" in path else numbers[0]
    return found


def repeatable_entries(spec: ModelSpec) -> dict[str, Value]:
    """Path that ends in `times` -> how many times each entry stands in its list, for every group of lists.

    Lists of numbers count if they are arguments; deeper ones are records, whose positions say what is what.
    """
    found: dict[str, Value] = {}
    for name, value in configuration(spec).items():
        for place, entries in _lists(value):
            if place == () or any(isinstance(entry, list | tuple | dict) or _is_record(entry) for entry in entries):
                path = ".".join((name, *(_DIGITS.sub("*", part) for part in place), "*"))
                ones = (1,) * len(places(value, path))
                found[f"{path}.{TIMES}"] = _told(spec.model_args.get(f"{path}.{TIMES}"), ones)
    return found


def _told(said: Any, ones: tuple[int, ...]) -> Value:
    if isinstance(said, int):
        return tuple(said for _ in ones)
    return tuple(said) if isinstance(said, list | tuple) and len(said) == len(ones) else ones


def _groups(name: str, place: tuple[str, ...]) -> Iterator[str]:
    wild = [_DIGITS.sub("*", part) for part in place]
    yield ".".join((name, *wild))
    if place[-1].isdecimal() and any("*" in part for part in wild[:-1]):
        yield ".".join((name, *wild[:-1], place[-1]))


def _leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of numbers inside a configuration."""
    for key, part in children(value):
        if isinstance(part, int | float) and not isinstance(part, bool):
            yield (*at, key)
        yield from _leaves(part, (*at, key))


def _lists(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any] | tuple[Any, ...]]]:
    if isinstance(value, list | tuple) and value:
        yield at, value
    for key, part in children(value):
        yield from _lists(part, (*at, key))


def _is_record(entry: Any) -> bool:
    return next(children(entry), None) is not None


def _value(part: Any) -> Any:
    """A number, a word, or a sequence of them; None for anything else."""
    if isinstance(part, list | tuple):
        inner = tuple(map(_value, part))
        return None if None in inner else inner
    return part if isinstance(part, int | float | str) and not isinstance(part, bool) else None
