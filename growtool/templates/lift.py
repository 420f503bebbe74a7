"""Growing a grid of blocks: how the growth of an axis looks to the blocks its positions stand in.

Where growth copies blocks as wholes, a tensor in template form grows in its coefficients alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.checkpoint import Layout


@dataclass(frozen=True, slots=True)
class Cell:
    """A block of the grown axis: copy `replica` of source block `block`, at these positions of the grown axis."""

    replica: int
    block: int
    positions: Tensor


def cells(axis: AxisMap, block: Tensor) -> list[Cell]:
    """The blocks of a grown axis, copies of the same number together.

    Args:
        axis: how the axis grows.
        block: int64 [N], the block of each source position.
    """
    of_position = block[axis.index]
    found = []
    for replica in range(axis.replicas):
        for number in range(int(block.max()) + 1):
            positions = torch.nonzero((axis.replica == replica) & (of_position == number)).flatten()
            if len(positions):
                found.append(Cell(replica, number, positions))
    return found


def lift(axis: AxisMap, layout: Layout) -> tuple[AxisMap, Layout] | None:
    """The growth of an axis as a growth of its blocks.

    Args:
        axis: how the positions grow.
        layout: where they stand in the grid.

    Returns:
        The growth of the grid's blocks and where the grown axis stands in the grown grid; None where a copy holds only
        part of a block, copies of a block share unequally what is summed, or channels are new and no copies.
    """
    if axis.is_identity:
        return AxisMap.unchanged(layout.blocks), layout
    if axis.blank is not None or not _copies_positions(axis):
        return None
    block, place = layout.places()
    size = torch.bincount(block)
    found = cells(axis, block)
    if any(len(cell.positions) != int(size[cell.block]) for cell in found):
        return None
    number = torch.empty_like(axis.index)
    for i, cell in enumerate(found):
        number[cell.positions] = i
        if not bool((axis.share[cell.positions] == axis.share[cell.positions[0]]).all()):
            return None
    index = torch.tensor([cell.block for cell in found])
    replica = torch.tensor([cell.replica for cell in found])
    grown = Layout.of(zip(number.tolist(), place[axis.index].tolist(), strict=True))
    if not axis.consumes:
        return AxisMap.copied(layout.blocks, index, replica), grown
    share = torch.stack([axis.share[cell.positions[0]] for cell in found])
    return AxisMap(layout.blocks, index, replica, index, layout.blocks, share, True), grown


def _copies_positions(axis: AxisMap) -> bool:
    """Whether a sum, if any runs over the axis, runs over the copies of each position and nothing else."""
    return not axis.consumes or (axis.slots == axis.size and bool((axis.slot == axis.index).all()))
