"""Where the positions of a tensor's axis stand in a grid of blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Run = tuple[int, int, int]  # block, first position within it, number of positions


@dataclass(frozen=True, slots=True)
class Layout:
    """An axis as runs of neighbouring positions of a block, in the order of the axis.

    A k-fold grid of whole blocks of n is `(0, 0, n), (1, 0, n), ...`; a last run that is shorter crops the grid. The
    rows of a packed qkv whose heads were doubled alternate: q of block 0, q of block 1, k of block 0, ...
    """

    runs: tuple[Run, ...]

    @classmethod
    def whole(cls, size: int) -> Layout:
        """One block."""
        return cls(((0, 0, size),))

    @classmethod
    def consecutive(cls, size: int, block: int) -> Layout:
        """Blocks one after the other, the last of them cropped to `size`."""
        return cls(tuple((k, 0, min(block, size - k * block)) for k in range(-(-size // block))))

    @classmethod
    def of(cls, places: Iterable[tuple[int, int]]) -> Layout:
        """From the (block, position) of each position of the axis."""
        runs: list[Run] = []
        for block, position in places:
            if runs and runs[-1][0] == block and sum(runs[-1][1:]) == position:
                runs[-1] = (block, runs[-1][1], runs[-1][2] + 1)
            else:
                runs.append((block, position, 1))
        return cls(tuple(runs))

    @property
    def size(self) -> int:
        """Positions of the axis."""
        return sum(length for _, _, length in self.runs)

    @property
    def blocks(self) -> int:
        """Blocks of the grid along the axis."""
        return 1 + max(block for block, _, _ in self.runs)

    def fits(self, blocks: int, size: int) -> bool:
        """Whether every position lies in one of `blocks` blocks of `size`."""
        return bool(self.runs) and all(
            0 <= block < blocks and start >= 0 and length >= 1 and start + length <= size
            for block, start, length in self.runs
        )

    def places(self) -> tuple[Tensor, Tensor]:
        """int64 [size] each: the block of every position, and its place within the block."""
        import torch

        block = torch.cat([torch.full((length,), b) for b, _, length in self.runs])
        return block, torch.cat([torch.arange(start, start + length) for _, start, length in self.runs])
