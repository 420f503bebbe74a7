"""Arguments of constructors that can be scaled.

A value is a number, or a tuple of values and words: `64`, `(64, 128)`, `(64, "M", 128)` for VGG. Its leaves are the
numbers and words in it, from left to right.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

_ROUNDING = 1e-12  # relative error that a product of a whole number with a factor such as 4/3 may have

Number = int | float
Leaf = Number | str
Value: TypeAlias = "Number | tuple[Value | str, ...]"


def scaled_at(value: Value, factor: float, places: Collection[int] | None = None) -> Value:
    """Return a value with the numbers in some places times a factor; whole products of whole numbers stay whole.

    Args:
        value: the value.
        factor: the factor.
        places: positions among its leaves, from 0; None for all.
    """
    return with_leaves(
        value,
        [
            part if isinstance(part, str) or (places is not None and i not in places) else times(part, factor)
            for i, part in enumerate(leaves(value))
        ],
    )


def leaves(value: Value | str) -> tuple[Leaf, ...]:
    """Return the numbers and words of a value, however deeply they are nested."""
    return tuple(leaf for part in value for leaf in leaves(part)) if isinstance(value, tuple) else (value,)


def with_leaves(value: Value, new: Iterable[Leaf]) -> Value:
    """Return a value of the same form with other leaves."""
    remaining = iter(new)

    def filled(part: Value | str) -> Any:
        return tuple(map(filled, part)) if isinstance(part, tuple) else next(remaining)

    result: Value = filled(value)
    return result


def as_lists(value: Value) -> Any:
    """Return a value as JSON has it, with lists for tuples."""
    return [part if isinstance(part, str) else as_lists(part) for part in value] if isinstance(value, tuple) else value


def times(value: Number, factor: float) -> Number:
    """Return a product; an int if the value is one and the product is whole up to rounding (96 times 4/3)."""
    product = value * factor
    whole = isinstance(value, int) and math.isclose(product, round(product), rel_tol=_ROUNDING)
    return round(product) if whole else product


def defaults_of(cls: type) -> dict[str, Any]:
    """Return the default values of a constructor's arguments, by name."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def numbers_in(arguments: Mapping[str, Any]) -> dict[str, Value]:
    """Return the arguments that are positive numbers, or sequences with one: see `_scalable`."""
    scalable = {name: _scalable(value) for name, value in arguments.items()}
    return {name: value for name, value in scalable.items() if value is not None}


def _scalable(value: Any) -> Value | None:
    """Return an argument as a value, or None if it is neither of these.

    - a positive number,
    - a sequence of positive numbers, zeros and words with at least one positive number,
    - a sequence of such sequences, of whole numbers alone.
    """
    if isinstance(value, list | tuple):
        if all(_is_positive(part) or _is_zero(part) or isinstance(part, str) for part in value):
            return tuple(value) if any(map(_is_positive, value)) else None
        return tuple(map(tuple, value)) if all(map(_are_counts, value)) else None
    return value if _is_positive(value) else None


def _are_counts(value: object) -> bool:
    """Return whether it is a sequence of whole numbers from zero, not all of them zero."""
    whole = isinstance(value, list | tuple) and all(type(part) is int and part >= 0 for part in value)
    return whole and any(value)  # type: ignore[arg-type]


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_zero(value: object) -> bool:
    """Return whether it is a whole zero, as for the blocks of an empty stage."""
    return type(value) is int and value == 0
