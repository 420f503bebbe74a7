"""How one set of channels grows: `h' = E h`, where every new channel is a copy of an old one.

Axes: n channels before, m after. E is the m x n matrix with a single 1 in each row; it is kept as the index of that 1.
A reader of the channels uses a left inverse R (n x m, R E = I); the equal split R = E^+ gives each of c copies 1/c.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.coupling import Growth, PairedAxis, Unchanged


@dataclass(frozen=True, slots=True)
class Expansion:
    """Attributes:

    size: n, channels before.
    index: int64 [m], the old channel that each new one copies.
    """

    size: int
    index: Tensor

    @classmethod
    def identity(cls, size: int) -> Expansion:
        """Nothing changes."""
        return cls(size, torch.arange(size))

    @property
    def counts(self) -> Tensor:
        """int64 [m]: how many copies the channel at each new position has, itself included."""
        return torch.bincount(self.index, minlength=self.size)[self.index]

    @property
    def replica(self) -> Tensor:
        """int64 [m]: how many copies of the same channel stand before this position."""
        order = torch.argsort(self.index, stable=True)
        position = torch.arange(len(order))
        starts = torch.cumsum(torch.bincount(self.index, minlength=self.size), 0) - torch.bincount(
            self.index, minlength=self.size
        )
        replica = torch.empty_like(order)
        replica[order] = position - starts[self.index[order]]
        return replica

    @property
    def multiplicity(self) -> int | None:
        """Copies per channel where all channels have equally many, else None."""
        counts = torch.bincount(self.index, minlength=self.size)
        return int(counts[0]) if bool((counts == counts[0]).all()) else None

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())


def tiled(size: int, new_size: int) -> Expansion:
    """Whole copies one after the other, `[h, h, ...]` (HyperCloning, arXiv 2409.12903).

    Raises:
        ValueError: `new_size` is not a multiple of `size`.
    """
    if new_size % size:
        raise ValueError(f"{new_size} is not a multiple of {size}")
    return Expansion(size, torch.arange(new_size) % size)


def copied_at_random(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """All old channels, then copies of channels drawn at random (Net2WiderNet, arXiv 1511.05641, section 2.2)."""
    drawn = torch.randint(size, (new_size - size,), generator=generator)
    return Expansion(size, torch.cat([torch.arange(size), drawn]))


@dataclass(frozen=True, slots=True)
class AxisMap:
    """One tensor dimension, N positions before and M after, assembled from the expansions of its factors.

    Attributes:
        size: N.
        index: int64 [M], the source position of each target position.
        replica: int64 [M], which copy of its source position it is, counted over all factors that grow.
        slot: int64 [M], positions a sum runs over together: those of one slot must add up to the source's value.
        slots: number of slots.
        share: float64 [M], the equal split; sums to 1 over each slot. All ones where nothing is summed.
        consumes: whether a sum runs over (part of) this dimension.
    """

    size: int
    index: Tensor
    replica: Tensor
    slot: Tensor
    slots: int
    share: Tensor
    consumes: bool

    @classmethod
    def unchanged(cls, size: int) -> AxisMap:
        """Every position stays; no sum runs over them."""
        return cls.copied(size, torch.arange(size), torch.zeros(size, dtype=torch.int64))

    @classmethod
    def copied(cls, size: int, index: Tensor, replica: Tensor) -> AxisMap:
        """Positions are copied, no sum runs over them: each is a slot of its own."""
        m = len(index)
        return cls(size, index, replica, torch.arange(m), m, torch.ones(m, dtype=torch.float64), False)

    @property
    def is_identity(self) -> bool:
        """Whether the dimension stays as it is."""
        return len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())

    @property
    def replicas(self) -> int:
        """Number of copies of the most copied position."""
        return int(self.replica.max()) + 1 if len(self.replica) else 1

    @property
    def slot_source(self) -> Tensor:
        """int64 [slots]: the source position whose value a slot adds up to."""
        source = torch.empty(self.slots, dtype=torch.int64)
        source[self.slot] = self.index
        return source


def axis_map(axis: PairedAxis, expansions: dict[Growth, Expansion], consumed: frozenset[Growth]) -> AxisMap:
    """Assemble the map of a dimension from its layout (a Kronecker product per segment, segments one after the other).

    Args:
        axis: the layout in both models.
        expansions: how each set of channels grows.
        consumed: the sets a sum runs over in this very dimension.
    """
    parts = [_segment_map(segment, expansions, consumed) for segment in axis.segments]
    if len(parts) == 1:
        return parts[0]
    offset, slot_offset = 0, 0
    index, slot = [], []
    for part in parts:
        index.append(part.index + offset)
        slot.append(part.slot + slot_offset)
        offset += part.size
        slot_offset += part.slots
    return AxisMap(
        offset,
        torch.cat(index),
        torch.cat([part.replica for part in parts]),
        torch.cat(slot),
        slot_offset,
        torch.cat([part.share for part in parts]),
        any(part.consumes for part in parts),
    )


def _segment_map(
    segment: tuple[Growth | Unchanged | PairedAxis, ...],
    expansions: dict[Growth, Expansion],
    consumed: frozenset[Growth],
) -> AxisMap:
    total = AxisMap.unchanged(1)
    for factor in segment:
        total = _product(total, _factor_map(factor, expansions, consumed))
    return total


def _factor_map(
    factor: Growth | Unchanged | PairedAxis, expansions: dict[Growth, Expansion], consumed: frozenset[Growth]
) -> AxisMap:
    if isinstance(factor, PairedAxis):
        return axis_map(factor, expansions, consumed)
    if isinstance(factor, Unchanged):
        return AxisMap.unchanged(factor.size)
    expansion = expansions[factor]
    if factor in consumed:
        share = 1.0 / expansion.counts.double()
        return AxisMap(expansion.size, expansion.index, expansion.replica, expansion.index, expansion.size, share, True)
    return AxisMap.copied(expansion.size, expansion.index, expansion.replica)


def _product(outer: AxisMap, inner: AxisMap) -> AxisMap:
    def combine(a: Tensor, b: Tensor, radix: int) -> Tensor:
        return (a[:, None] * radix + b[None, :]).reshape(-1)

    return AxisMap(
        outer.size * inner.size,
        combine(outer.index, inner.index, inner.size),
        combine(outer.replica, inner.replica, inner.replicas),
        combine(outer.slot, inner.slot, inner.slots),
        outer.slots * inner.slots,
        (outer.share[:, None] * inner.share[None, :]).reshape(-1),
        outer.consumes or inner.consumes,
    )
