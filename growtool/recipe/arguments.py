"""The numbers a model was constructed with, whatever the constructor calls them."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import sys
from collections.abc import Collection, Iterable
from types import CodeType, FrameType
from typing import Any, TypeAlias

from torch import nn

from growtool.checkpoint import ModelSpec, build

_ROUNDING = 1e-12  # relative, of a product with a float

Number = int | float
Leaf = Number | str
Value: TypeAlias = "Number | tuple[Value | str, ...]"


def scaled(value: Value, factor: float) -> Value:
    """A value, or each number in it, times a factor; whole products of whole numbers stay whole numbers."""
    return with_leaves(value, [part if isinstance(part, str) else times(part, factor) for part in leaves(value)])


def scaled_at(value: Value, factor: float, places: Collection[int] | None) -> Value:
    """A value whose numbers in these places are multiplied, counted through `leaves`; all of them for None."""
    if places is None:
        return scaled(value, factor)
    larger = leaves(scaled(value, factor))
    return with_leaves(value, [larger[i] if i in places else part for i, part in enumerate(leaves(value))])


def leaves(value: Value | str) -> tuple[Leaf, ...]:
    """The numbers and words of a value, however deep in sequences."""
    return tuple(leaf for part in value for leaf in leaves(part)) if isinstance(value, tuple) else (value,)


def with_leaves(value: Value, new: Iterable[Leaf]) -> Value:
    """A value of the same form with other leaves."""
    remaining = iter(new)

    def filled(part: Value | str) -> Any:
        return tuple(map(filled, part)) if isinstance(part, tuple) else next(remaining)

    found: Value = filled(value)
    return found


def as_lists(value: Value) -> Any:
    """A value as JSON has it."""
    return [part if isinstance(part, str) else as_lists(part) for part in value] if isinstance(value, tuple) else value


def times(value: Number, factor: float) -> Number:
    """A product; a whole number where a count comes out as one, up to the rounding of a factor such as 4/3."""
    product = value * factor
    whole = isinstance(value, int) and math.isclose(product, round(product), rel_tol=_ROUNDING)
    return round(product) if whole else product


def constructor_numbers(spec: ModelSpec, model: nn.Module) -> dict[str, Value]:
    """The numbers, and sequences of numbers, that the model was constructed with, defaults included."""
    found = {name: _number(value) for name, value in _constructor_values(spec, model).items()}
    return {name: value for name, value in found.items() if value is not None}


def constructor_switches(spec: ModelSpec, model: nn.Module) -> dict[str, bool]:
    """The flags that the model was constructed with, defaults included."""
    values = _constructor_values(spec, model)
    return {name: value for name, value in values.items() if isinstance(value, bool) and name != "pretrained"}


def constructor_arguments(spec: ModelSpec, model: nn.Module) -> frozenset[str]:
    """The names of what the model was constructed with, defaults included."""
    return frozenset(_constructor_values(spec, model))


def _constructor_values(spec: ModelSpec, model: nn.Module) -> dict[str, Any]:
    """Arguments of the model's class and of the functions of its file that lead there.

    A configuration object among them is replaced by its fields: timm lays keyword arguments over those.
    """
    seen: dict[str, Any] = {}
    classes = itertools.takewhile(lambda cls: cls is not nn.Module, type(model).__mro__)
    innermost: CodeType = [vars(cls)["__init__"].__code__ for cls in classes if "__init__" in vars(cls)][-1]
    home = inspect.getfile(type(model))

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and (code.co_filename == home or code is innermost):
            seen.update((name, frame.f_locals[name]) for name in _argument_names(code))
            if code is innermost:
                sys.settrace(before)

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        build(spec)
    finally:
        sys.settrace(before)
    for value in list(seen.values()):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            seen.update({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, dict):
            seen.update({name: part for name, part in value.items() if isinstance(name, str)})
    return seen


def _argument_names(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _number(value: Any) -> Value | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if value > 0 else None
    if isinstance(value, list | tuple) and all(_is_count(p) or _is_none(p) or isinstance(p, str) for p in value):
        return tuple(value) if any(map(_is_count, value)) else None
    if isinstance(value, list | tuple) and value and all(_are_counts(part) for part in value):
        return tuple(map(tuple, value))
    return None


def _are_counts(value: object) -> bool:
    """Whether it is a sequence of whole numbers, some of which may be none."""
    whole = isinstance(value, list | tuple) and all(type(part) is int and part >= 0 for part in value)
    return whole and any(value)  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_none(value: object) -> bool:
    """Whether it is a count of zero, as that of the blocks of an empty stage."""
    return type(value) is int and value == 0
