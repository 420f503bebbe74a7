"""Where the elements of an earlier tensor lie in one made from it by views and permutations.

Each dimension is a row-major product of digits; a digit (dim, stride, size) counts positions of the earlier tensor's
dimension `dim` in steps of `stride`. So after a transposition and a flattening of [4, 6] the layout is
`(((1, 1, 6), (0, 1, 4)),)`. Unlike symbolic axes, which operations make equal, a layout tells a square from its
transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Digit: TypeAlias = tuple[int, int, int]
Layout: TypeAlias = tuple[tuple[Digit, ...], ...]


def in_place(shape: Sequence[int]) -> Layout:
    """Every element of a tensor of this shape where it was."""
    return tuple(((dim, 1, size),) if size > 1 else () for dim, size in enumerate(shape))


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    """The layout with its dimensions in another order."""
    return tuple(layout[dim] for dim in order)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """The layout of a row-major view; None where it cuts across the digits."""
    digits = [digit for dim in layout for digit in dim]
    dims: list[tuple[Digit, ...]] = []
    for size in reversed(shape):
        taken: list[Digit] = []
        missing = size
        while missing > 1:
            dim, stride, count = digits.pop()
            if missing % count == 0:
                taken.insert(0, (dim, stride, count))
                missing //= count
            elif count % missing == 0:
                taken.insert(0, (dim, stride, missing))
                digits.append((dim, stride * missing, count // missing))
                missing = 1
            else:
                return None
        dims.insert(0, _joined(taken))
    return tuple(dims)


def _joined(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    joined: list[Digit] = []
    for dim, stride, count in digits:
        if joined and joined[-1][0] == dim and joined[-1][1] == stride * count:
            joined[-1] = (dim, stride, joined[-1][2] * count)
        else:
            joined.append((dim, stride, count))
    return tuple(joined)
