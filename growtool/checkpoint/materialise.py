"""Combining templates into the blocks of a grid, and laying the grid out as a tensor.

Axes: k_out, k_in the grid (`oo` in `C_ooT`); T templates; B blocks; o, i rows and columns of a block; O, I those of the
tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from growtool.checkpoint.form import Layout

WHOLE = slice(None)
AT_ONCE = 1 << 18  # numbers of a combination that are made together: 1 MiB in float32, which stays in the cache


class Bank(Protocol):
    """Templates that are read when they are needed."""

    @property
    def count(self) -> int:
        """T, the number of templates."""

    @property
    def block(self) -> tuple[int, ...]:
        """The shape of a template, [o, i, ...]."""

    def template(self, t: int, rows: slice = WHOLE) -> Tensor:
        """Return template t, [o, i, ...], or some of its rows, in the type it is stored in."""


def template_of(parts: Sequence[Tensor], block: tuple[int, ...], rows: slice = WHOLE) -> Tensor:
    """Return a template [o, i, ...], or some of its rows.

    Args:
        parts: the template itself, or its factors [o] and [i, ...].
        block: the shape of the template.
        rows: the rows to return.
    """
    first, *second = parts
    return (first[rows, None] * second[0].reshape(1, -1)).reshape(-1, *block[1:]) if second else first[rows]


def combined(bank: Bank, C_BT: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Yield the combinations of templates `sum_t C_bt T_t`, some rows of all B blocks at a time.

    A combination that is a single template with coefficient one is a copy of it, bit for bit.

    Args:
        bank: the templates.
        C_BT: coefficients, [B, T].
        dtype: the type of the arithmetic and the result.

    Yields:
        The rows, and these rows of every block, [B, rows, i, ...], in a buffer that the next rows overwrite.
    """
    used = C_BT != 0
    is_copy = ((used.sum(1) == 1) & ((C_BT == 1).sum(1) == 1)).tolist()
    users = {t: torch.nonzero(used[:, t]).flatten().tolist() for t in torch.nonzero(used.any(0)).flatten().tolist()}
    coefficients = C_BT.tolist()
    height, *rest = bank.block
    count = max(1, AT_ONCE // max(1, math.prod(rest)))
    buffer = torch.empty(len(C_BT), min(count, height), *rest, dtype=dtype)
    for start in range(0, height, count):
        rows = slice(start, min(start + count, height))
        blocks = buffer[:, : rows.stop - start].zero_()
        for t, users_of_t in users.items():
            template = bank.template(t, rows).to(dtype)  # read once for all blocks that take it
            for b in users_of_t:
                if is_copy[b]:  # a sum with zero would turn -0.0 into 0.0
                    blocks[b].copy_(template)
                else:
                    blocks[b].add_(template, alpha=coefficients[b][t])
        yield rows, blocks


def combine(bank: Bank, C_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the combinations of templates `sum_t C_bt T_t`, [B, o, i, ...]."""
    blocks = torch.empty(len(C_BT), *bank.block, dtype=dtype)
    for rows, part in combined(bank, C_BT, dtype):
        blocks[:, rows] = part
    return blocks


def materialise(bank: Bank, C_ooT: Tensor, rows: Layout, columns: Layout, dtype: torch.dtype) -> Tensor:
    """Return the tensor [O, I, ...] that templates and coefficients [k_out, k_in, T] make."""
    k_out, k_in, templates = C_ooT.shape
    blocks = combine(bank, C_ooT.reshape(-1, templates), dtype)
    return assemble(blocks.unflatten(0, (k_out, k_in)), rows, columns)


def assemble(blocks: Tensor, rows: Layout, columns: Layout) -> Tensor:
    """Return a grid of blocks [k_out, k_in, o, i, ...] as a tensor [O, I, ...]; differentiable."""
    o, i = blocks.shape[2:4]
    return laid_out(blocks, (rows.size, columns.size), (positions(rows, o), positions(columns, i)))


def positions(layout: Layout, size: int) -> Tensor | None:
    """Return the place of each position of an axis among all places of the grid along it, int64.

    Args:
        layout: the axis.
        size: places of a block.

    Returns:
        None if the axis has the first places of the grid in their order, so that cropping the grid is enough.
    """
    if layout == Layout.consecutive(layout.size, size):
        return None
    block, place = layout.places()
    return block * size + place


def laid_out(blocks: Tensor, sizes: tuple[int, int], places: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """Return a grid of blocks as a tensor, as `assemble` does, with the layouts resolved beforehand.

    Args:
        blocks: [k_out, k_in, o, i, ...].
        sizes: O and I.
        places: for the rows and the columns, the result of `positions`.
    """
    if sizes == tuple(blocks.shape[2:4]) and blocks.shape[:2] == (1, 1) and places == (None, None):
        return blocks[0, 0]
    grid = blocks.transpose(1, 2).flatten(2, 3).flatten(0, 1)  # [k_out * o, k_in * i, ...]
    for dim, (size, place) in enumerate(zip(sizes, places, strict=True)):
        grid = grid.narrow(dim, 0, size) if place is None else grid.index_select(dim, place.to(grid.device))
    return grid
