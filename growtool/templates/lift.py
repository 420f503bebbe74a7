"""The growth of an axis as a growth of the blocks that its positions lie in.

If growth copies blocks as wholes, a tensor in template form grows in its coefficients alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.checkpoint import Layout


@dataclass(frozen=True, slots=True)
class Cell:
    """A block of the grown axis: copy number `replica` of source block `block`, at `positions` of the grown axis."""

    replica: int
    block: int
    positions: Tensor


def cells(axis: AxisMap, block: Tensor) -> list[Cell]:
    """Return the blocks of a grown axis: the first copies of all blocks, then the second ones, and so on.

    Args:
        axis: how the axis grows, from N positions.
        block: int64 [N], the block of each source position.
    """
    block_of_grown = block[axis.index]
    grown = []
    for replica in range(axis.replicas):
        for number in range(int(block.max()) + 1):
            positions = torch.nonzero((axis.replica == replica) & (block_of_grown == number)).flatten()
            if len(positions):
                grown.append(Cell(replica, number, positions))
    return grown


def lift(axis: AxisMap, layout: Layout) -> tuple[AxisMap, Layout] | None:
    """Return the growth of an axis as a growth of its blocks.

    Args:
        axis: how the positions grow.
        layout: where the positions lie in the grid.

    Returns:
        The growth of the grid's blocks, and the layout of the grown axis in the grown grid. None if that is impossible:
        a copy holds only part of a block, positions of a block have different shares in a sum, or channels are blank.
    """
    if axis.is_identity:
        return AxisMap.unchanged(layout.blocks), layout
    if axis.has_blanks or not _copies_positions(axis):
        return None
    block, place = layout.places()
    size = torch.bincount(block)
    grown = cells(axis, block)
    if any(len(cell.positions) != int(size[cell.block]) for cell in grown):
        return None
    block_of_grown = torch.empty_like(axis.index)
    for number, cell in enumerate(grown):
        block_of_grown[cell.positions] = number
        if not bool((axis.share[cell.positions] == axis.share[cell.positions[0]]).all()):
            return None
    index = torch.tensor([cell.block for cell in grown])
    replica = torch.tensor([cell.replica for cell in grown])
    grown_layout = Layout.of(zip(block_of_grown.tolist(), place[axis.index].tolist(), strict=True))
    if not axis.consumes:
        return AxisMap.copied(layout.blocks, index, replica), grown_layout
    share = torch.stack([axis.share[cell.positions[0]] for cell in grown])
    return AxisMap.shared(layout.blocks, index, replica, share), grown_layout


def _copies_positions(axis: AxisMap) -> bool:
    """Return whether a sum over the axis, if there is one, adds up the copies of each position and nothing else."""
    return not axis.consumes or (axis.slots == axis.size and bool((axis.slot == axis.index).all()))
