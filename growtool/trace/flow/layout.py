"""Where the elements of an earlier tensor lie in a tensor made from it by views and permutations.

Each dimension is a row-major product of digits. A digit (dim, stride, size) counts `size` positions along dimension
`dim` of the earlier tensor, in steps of `stride`. After a transposition and a flattening of [4, 6], for example, the
layout is `(((1, 1, 6), (0, 1, 4)),)`.

Symbolic axes are no substitute: where operations have made both axes of a square tensor equal, it has the same axes as
its transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Digit: TypeAlias = tuple[int, int, int]  # dimension of the earlier tensor, stride and size, both in positions
Layout: TypeAlias = tuple[tuple[Digit, ...], ...]  # digits of each dimension, the outermost digit first


def in_place(shape: Sequence[int]) -> Layout:
    """Return the layout of a tensor of this shape whose elements all lie where they did."""
    return tuple(((dim, 1, size),) if size > 1 else () for dim, size in enumerate(shape))


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    """Return a layout with its dimensions in another order."""
    return tuple(layout[dim] for dim in order)


def reshaped(layout: Layout, shape: Sequence[int]) -> Layout | None:
    """Return the layout of a row-major view of this shape; None if the digits cannot be split so.

    The sizes of the new dimensions are made up of digits from the innermost one outwards. A digit may be split in two.
    """
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
        dims.insert(0, _merged(taken))
    return tuple(dims)


def _merged(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Return the digits with each pair of adjacent ones that count the same dimension on as one."""
    merged: list[Digit] = []
    for dim, stride, count in digits:
        if merged and merged[-1][0] == dim and merged[-1][1] == stride * count:
            merged[-1] = (dim, stride, merged[-1][2] * count)
        else:
            merged.append((dim, stride, count))
    return tuple(merged)
