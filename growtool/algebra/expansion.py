"""How one channel group grows: `h' = E h`, where every new channel is a copy of an old one or a blank.

Axes: n channels before, m after. A row of E [m, n] has a single 1, and the column of that 1 is all that is kept of it;
the row of a blank is zero. What a blank channel carries (zeros, a mean, anything) and what may read it is decided from
the trace (`prove.blanks.propagation`). A layer that reads the channels needs a left inverse R [n, m], R E = I; the
equal split R = E^+ gives each of c copies 1/c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from growtool.trace import Axis, ChannelGroup

Blank = Literal["silent", "mean", "open"]  # zeros, the mean of the old channels, anything
Fill = Literal["zero", "mean", "noise"]  # what growth writes at blank rows of a tensor
BLANK = -1  # in `Expansion.index`: a channel that copies none


@dataclass(frozen=True, eq=False)
class Expansion:
    """How one channel group grows: `h' = E h`.

    Attributes:
        size: n, channels before.
        index: int64 [m], the old channel that each new channel copies; `BLANK` for a blank.
    """

    size: int
    index: Tensor

    @classmethod
    def identity(cls, size: int) -> Expansion:
        """Return the expansion that changes nothing."""
        return cls(size, torch.arange(size))

    @cached_property
    def blank(self) -> Tensor:
        """bool [m]: which new channels copy none."""
        return self.index == BLANK

    @cached_property
    def has_blanks(self) -> bool:
        """Whether some new channel copies none."""
        return bool(self.blank.any())

    @cached_property
    def _copies_of_each(self) -> Tensor:
        """int64 [n]: how many copies each old channel has."""
        return torch.bincount(self.index[~self.blank], minlength=self.size)

    @cached_property
    def counts(self) -> Tensor:
        """int64 [m]: how many copies the channel at each new position has, itself included; 1 for a blank."""
        return self._copies_of_each[self.index.clamp(min=0)].where(~self.blank, torch.ones_like(self.index))

    @cached_property
    def replica(self) -> Tensor:
        """int64 [m]: how many copies of the same channel stand before this position; 0 for a blank."""
        replica = torch.zeros_like(self.index)
        order = torch.argsort(self.index, stable=True)[int(self.blank.sum()) :]  # BLANK = -1 sorts to the front
        starts = torch.cumsum(self._copies_of_each, 0) - self._copies_of_each
        replica[order] = torch.arange(len(order)) - starts[self.index[order]]
        return replica

    @cached_property
    def copies(self) -> int | None:
        """Copies per old channel if all have equally many, blanks aside, else None."""
        counts = self._copies_of_each
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    @property
    def multiplicity(self) -> int | None:
        """Copies per old channel if all have equally many and no channel is blank, else None."""
        return None if self.has_blanks else self.copies

    @cached_property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())


def tiled(size: int, new_size: int) -> Expansion:
    """Return whole copies one after the other, `[h, h, ...]` (HyperCloning, arXiv 2409.12903).

    Raises:
        ValueError: `new_size` is not a multiple of `size`.
    """
    if new_size % size:
        raise ValueError(f"{new_size} is not a multiple of {size}")
    return circular(size, new_size)


def circular(size: int, new_size: int) -> Expansion:
    """Return copies in turn, `[h_0, ..., h_(n-1), h_0, ...]`, the last round cut short (LEMON, arXiv 2310.07999)."""
    return Expansion(size, torch.arange(new_size) % size)


def padded(size: int, new_size: int, *, copies: int | None = None) -> Expansion:
    """Return whole copies, then blanks.

    Args:
        size: channels before.
        new_size: channels after.
        copies: how many whole copies; None is as many as fit.
    """
    whole = size * (copies or new_size // size)
    return Expansion(size, torch.cat([torch.arange(whole) % size, torch.full((new_size - whole,), BLANK)]))


def copied_at_random(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return all old channels, then copies of random ones (Net2WiderNet, arXiv 1511.05641, section 2.2)."""
    drawn = torch.randint(size, (new_size - size,), generator=generator)
    return Expansion(size, torch.cat([torch.arange(size), drawn]))


def copied_evenly(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return whole copies as often as they fit, then copies of random channels, no channel twice among these."""
    whole, rest = divmod(new_size, size)
    drawn = torch.randperm(size, generator=generator)[:rest]
    return Expansion(size, torch.cat([torch.arange(size).repeat(whole), drawn]))


def copies_per_position(axis: Axis, expansions: Mapping[ChannelGroup, Expansion]) -> int | None:
    """Return how often each source position of an axis stands in the target if all do equally often, else None."""
    per_segment = set()
    for segment in axis:
        copies = 1
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                times = expansions[factor].multiplicity if factor in expansions else 1
            else:
                times = copies_per_position(factor, expansions)
            if times is None:
                return None
            copies *= times
        per_segment.add(copies)
    return per_segment.pop() if len(per_segment) == 1 else None
