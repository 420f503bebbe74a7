"""From coefficients and templates to a tensor.

Axes: k_out, k_in the grid; T templates; B blocks; o, i rows and columns of a block; O, I those of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from growtool.checkpoint.form import Layout

WHOLE = slice(None)
AT_ONCE = 1 << 18  # numbers of a combination that are made together: they stay near the processor meanwhile


class Bank(Protocol):
    """Templates, read when they are needed."""

    @property
    def count(self) -> int:
        """T, the number of templates."""

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of a template, [o, i, ...]."""

    def template(self, t: int, rows: slice = WHOLE) -> Tensor:
        """Template t, [o, i, ...], or some of its rows, in the type it is stored in."""


def template_of(parts: Sequence[Tensor], block: tuple[int, ...], rows: slice = WHOLE) -> Tensor:
    """One template [o, i, ...], or some of its rows, of what is stored: itself, or its factors [o], [i, ...]."""
    first, *second = parts
    return (first[rows, None] * second[0].reshape(1, -1)).reshape(-1, *block[1:]) if second else first[rows]


def combined(bank: Bank, C_BT: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """`sum_t C_bt T_t` for each b, some rows at a time.

    A combination that is a single template with coefficient one is a copy of it, bit for bit.

    Args:
        bank: the templates.
        C_BT: coefficients, [B, T].
        dtype: of the arithmetic and the result.

    Yields:
        Which rows, and what stands there, [B, rows, i, ...]; the next rows take its place.
    """
    used = C_BT != 0
    copies = ((used.sum(1) == 1) & ((C_BT == 1).sum(1) == 1)).tolist()
    terms = {t: torch.nonzero(used[:, t]).flatten().tolist() for t in torch.nonzero(used.any(0)).flatten().tolist()}
    coefficients = C_BT.tolist()
    height, *rest = bank.block
    count = max(1, AT_ONCE // max(1, math.prod(rest)))
    buffer = torch.empty(len(C_BT), min(count, height), *rest, dtype=dtype)
    for start in range(0, height, count):
        rows = slice(start, min(start + count, height))
        blocks = buffer[:, : rows.stop - start].zero_()
        for t, sums in terms.items():
            template = bank.template(t, rows).to(dtype)
            for b in sums:
                if copies[b]:
                    blocks[b].copy_(template)
                else:
                    blocks[b].add_(template, alpha=coefficients[b][t])
        yield rows, blocks


def combine(bank: Bank, C_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """All of what `combined` gives, [B, o, i, ...]."""
    blocks = torch.empty(len(C_BT), *bank.block, dtype=dtype)
    for rows, some in combined(bank, C_BT, dtype):
        blocks[:, rows] = some
    return blocks


def materialise(bank: Bank, C_ooT: Tensor, rows: Layout, columns: Layout, dtype: torch.dtype) -> Tensor:
    """The tensor that coefficients [k_out, k_in, T] and templates stand for, [O, I, ...]."""
    k_out, k_in, templates = C_ooT.shape
    blocks = combine(bank, C_ooT.reshape(-1, templates), dtype)
    return assemble(blocks.unflatten(0, (k_out, k_in)), rows, columns)


def assemble(blocks: Tensor, rows: Layout, columns: Layout) -> Tensor:
    """Lay a grid of blocks [k_out, k_in, o, i, ...] out as a tensor [O, I, ...]; differentiable."""
    o, i = blocks.shape[2:4]
    return laid_out(blocks, (rows.size, columns.size), (positions(rows, o), positions(columns, i)))


def positions(layout: Layout, size: int) -> Tensor | None:
    """int64: which of the grid's positions, in blocks of `size`, each of an axis is; None where they are the first."""
    if layout == Layout.consecutive(layout.size, size):
        return None
    block, place = layout.places()
    return block * size + place


def laid_out(blocks: Tensor, sizes: tuple[int, int], places: tuple[Tensor | None, Tensor | None]) -> Tensor:
    """`assemble`, with the O and I positions found before by `positions`."""
    if sizes == tuple(blocks.shape[2:4]) and blocks.shape[:2] == (1, 1) and places == (None, None):
        return blocks[0, 0]
    grid = blocks.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    for dim, (size, place) in enumerate(zip(sizes, places, strict=True)):
        grid = grid.narrow(dim, 0, size) if place is None else grid.index_select(dim, place.to(grid.device))
    return grid
