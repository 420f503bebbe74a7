"""The numbers a model is constructed with: a value is a number, or numbers and words in sequences within each other."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

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


def defaults_of(cls: type) -> dict[str, Any]:
    """The arguments of a constructor that have defaults."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def numbers_in(arguments: Mapping[str, Any]) -> dict[str, Value]:
    """The arguments that are numbers above zero, or sequences of numbers."""
    found = {name: _number(value) for name, value in arguments.items()}
    return {name: value for name, value in found.items() if value is not None}


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
