"""The arguments of timm's models: those that a model was constructed with, and the numbers inside them by path.

The paths are those under which `growtool_open` takes numbers inside nested configurations. Places that differ only by
positions in lists are one group, whose path has `*` for each position: the channels of all stages are `cfg.stages.*.c`.
An innermost list may also be a record whose positions mean different things (HGNet's stages list input channels, hidden
channels, output channels, ...), so each position is a group of its own as well.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from torch import nn

from growtool.library.paths import TIMES, children, places, value_at
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import OPEN, configuration
from growtool.library.values import Value

_DIGITS = re.compile(r"\d+")


def constructor_values(model: nn.Module, build: Callable[[], object]) -> dict[str, Any]:
    """Return the arguments of the model's class and of the functions of its file that lead there, defaults included.

    They include the fields of every configuration object among them, since timm's builders replace those by keyword
    arguments of the same names.

    Args:
        model: the model, built before.
        build: builds the same model again; it is watched.
    """
    seen: dict[str, Any] = {}
    classes = itertools.takewhile(lambda cls: cls is not nn.Module, type(model).__mro__)
    # The arguments of a class may be those of a base class in another file (deit.py's VisionTransformerDistilled).
    innermost: CodeType = [vars(cls)["__init__"].__code__ for cls in classes if "__init__" in vars(cls)][-1]
    home = inspect.getfile(type(model))

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and (code.co_filename == home or code is innermost):
            # A later call is further in, so its values replace those of an earlier one.
            seen.update((name, frame.f_locals[name]) for name in _argument_names(code))
            if code is innermost:  # the calls from here on build the layers
                sys.settrace(before)

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        build()
    finally:
        sys.settrace(before)
    for value in list(seen.values()):
        if not isinstance(value, list | tuple):
            seen.update(children(value))
    return seen


def _argument_names(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def nested_numbers(spec: ModelSpec) -> dict[str, Value]:
    """Return the path of each group of places that hold numbers, with the numbers in its places.

    Only `growtool_open` takes such paths.
    """
    groups: dict[str, Value] = {}
    for name, value in _reached(spec).items():
        for path in dict.fromkeys(path for place in _leaves(value) for path in _groups(name, place)):
            numbers = [_value(part) for part in value_at(value, path)]
            if None not in numbers and any(isinstance(part, int | float) and part for part in numbers):
                groups[path] = tuple(numbers) if "*" in path else numbers[0]
    return groups


def entry_repeats(spec: ModelSpec) -> dict[str, Value]:
    """Return how many times each entry of each group of lists stands there, by path with `times` at its end.

    Only `growtool_open` takes such paths.

    A list of plain numbers counts if it is an argument itself (VGG's `cfg`); a deeper one is a record, whose entries
    cannot be repeated.
    """
    counts: dict[str, Value] = {}
    for name, value in _reached(spec).items():
        for place, entries in _lists(value):
            if place == () or any(isinstance(entry, list | tuple | dict) or _has_parts(entry) for entry in entries):
                path = ".".join((name, *(_DIGITS.sub("*", part) for part in place), "*"))
                entry_count = len(places(value, path))
                counts[f"{path}.{TIMES}"] = _times(spec.model_args.get(f"{path}.{TIMES}"), entry_count)
    return counts


def _reached(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments that `growtool_open` reaches by paths; none for a spec without it."""
    return configuration(spec) if spec.architecture == OPEN else {}


def _times(argument: Any, entry_count: int) -> Value:
    """Return a number for each entry by the argument of the spec; 1 if it has none that fits."""
    if isinstance(argument, int):
        return (argument,) * entry_count
    fits = isinstance(argument, list | tuple) and len(argument) == entry_count
    return tuple(argument) if fits else (1,) * entry_count


def _groups(name: str, place: tuple[str, ...]) -> Iterator[str]:
    """Yield the paths of the groups that a place belongs to: one, or two if it lies in a list within a list."""
    wild = [_DIGITS.sub("*", part) for part in place]
    yield ".".join((name, *wild))
    if place[-1].isdecimal() and any("*" in part for part in wild[:-1]):
        yield ".".join((name, *wild[:-1], place[-1]))


def _leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the places of numbers inside a configuration, each behind the place of the configuration."""
    for key, part in children(value):
        if isinstance(part, int | float) and not isinstance(part, bool):
            yield (*at, key)
        yield from _leaves(part, (*at, key))


def _lists(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any] | tuple[Any, ...]]]:
    """Yield the place and the entries of each list inside a configuration, itself included."""
    if isinstance(value, list | tuple) and value:
        yield at, value
    for key, part in children(value):
        yield from _lists(part, (*at, key))


def _has_parts(entry: Any) -> bool:
    """Return whether an entry is a configuration itself, such as a dataclass."""
    return next(children(entry), None) is not None


def _value(part: Any) -> Any:
    """Return a number or a word as it is, and a sequence of them as a tuple; None for anything else."""
    if isinstance(part, list | tuple):
        inner = tuple(map(_value, part))
        return None if None in inner else inner
    return part if isinstance(part, int | float | str) and not isinstance(part, bool) else None
