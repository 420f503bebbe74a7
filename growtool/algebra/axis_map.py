"""How one dimension of a tensor grows: the expansions of its channel groups, put together by its layout.

Axes: N positions before, M after, B slots. A slot is a set of target positions that a sum runs over together: the
copies of one source position of the groups that are summed over, at one target position of the groups that are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.algebra.places import Places, as_places
from growtool.trace import GroupPair, PairedAxis, Unchanged


@dataclass(frozen=True)
class AxisMap:
    """How one tensor dimension grows, from N positions to M.

    Attributes:
        size: N.
        index: int64 [M], the source position of each target position; 0 where the position is blank.
        replica: int64 [M], which copy of its source position each is, counted over all factors that grow.
        slot: int64 [M], the slot of each position; weights in one slot must add up to the source's.
        slots: B, the number of slots.
        share: float64 [M], the equal split: sums to 1 over each slot; 1 everywhere if no sum runs over the dimension.
        consumes: whether a sum runs over the dimension, or over part of its factors.
        blank: bool [M], positions that copy none.
        free: bool [M], blank positions that a sum runs over and that meet zeros alone, so that they may hold anything.
    """

    size: int
    index: Tensor
    replica: Tensor
    slot: Tensor
    slots: int
    share: Tensor
    consumes: bool
    blank: Tensor
    free: Tensor

    @property
    def copies(self) -> Tensor:
        """int64 [M]: how many positions copy the source position that this one copies, itself included."""
        return torch.bincount(self.index[self.kept], minlength=self.size)[self.index]

    @property
    def factor(self) -> float:
        """Number of positions that are copies, over N."""
        return len(self.kept) / self.size

    @classmethod
    def unchanged(cls, size: int) -> AxisMap:
        """Return the map where every position stays, and no sum runs over them."""
        return cls.copied(size, torch.arange(size), torch.zeros(size, dtype=torch.int64))

    @classmethod
    def copied(cls, size: int, index: Tensor, replica: Tensor, blank: Tensor | None = None) -> AxisMap:
        """Return the map where positions are copied and no sum runs over them: each is a slot of its own."""
        m = len(index)
        none = torch.zeros(m, dtype=torch.bool)
        share = torch.ones(m, dtype=torch.float64)
        return cls(size, index, replica, torch.arange(m), m, share, False, none if blank is None else blank, none)

    @classmethod
    def shared(cls, size: int, index: Tensor, replica: Tensor, share: Tensor) -> AxisMap:
        """Return the map where positions are copied and a sum runs over all copies of a source position: its slot."""
        none = torch.zeros(len(index), dtype=torch.bool)
        return cls(size, index, replica, index, size, share, True, none, none)

    def part(self, positions: Tensor) -> AxisMap:
        """Return the map of some of the positions (int64), of a dimension that no sum runs over."""
        return AxisMap.copied(self.size, self.index[positions], self.replica[positions], self.blank[positions])

    @property
    def fingerprint(self) -> bytes:
        """A digest that is equal for equal maps, and for no others."""
        digest = hashlib.sha256(f"{self.size} {self.slots} {self.consumes}".encode())
        for part in (self.index, self.replica, self.slot, self.share, self.blank, self.free):
            digest.update(part.numpy().tobytes())
        return digest.digest()

    @cached_property
    def has_blanks(self) -> bool:
        """Whether some position copies none."""
        return bool(self.blank.any())

    @cached_property
    def is_identity(self) -> bool:
        """Whether the dimension stays as it is."""
        return (
            not self.has_blanks and len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())
        )

    @property
    def replicas(self) -> int:
        """Number of copies of the most copied position."""
        return int(self.replica.max()) + 1 if len(self.replica) else 1

    @cached_property
    def slot_source(self) -> Tensor:
        """int64 [B]: the source position whose value each slot adds up to."""
        source = torch.zeros(self.slots, dtype=torch.int64)
        source[self.slot[self.kept]] = self.index[self.kept]
        return source

    @cached_property
    def turns(self) -> tuple[tuple[Places, Places], ...]:
        """The first positions of all slots with their slots, then the second positions, and so on.

        The positions of one turn lie in different slots, so that a turn is one indexed addition into slots.
        """
        order = self.kept[torch.argsort(self.slot[self.kept], stable=True)]
        slots = self.slot[order]
        starts = torch.searchsorted(slots, slots)  # where the slot of each position begins in the order
        turn = torch.arange(len(slots)) - starts
        masks = (turn == number for number in range(int(turn.max()) + 1 if len(turn) else 0))
        return tuple((as_places(order[mask]), as_places(slots[mask])) for mask in masks)

    @property
    def kept(self) -> Tensor:
        """int64: the positions that are copies, in order."""
        return torch.nonzero(~self.blank).flatten()


def axis_map(
    axis: PairedAxis,
    expansions: Mapping[GroupPair, Expansion],
    consumed: frozenset[GroupPair],
    free: frozenset[GroupPair] = frozenset(),
) -> AxisMap:
    """Assemble the map of a dimension from its layout.

    Segments stand one after the other; a segment is a row-major product of its factors, so its E is their Kronecker
    product.

    Args:
        axis: the layout in both models.
        expansions: how each channel group grows.
        consumed: the groups that a sum runs over in this very dimension.
        free: those of them whose blank channels are zero wherever this dimension meets them.
    """
    parts = []
    for segment in axis.segments:
        factors = [_factor_map(factor, expansions, consumed, free) for factor in segment]
        parts.append(reduce(_product, factors) if factors else AxisMap.unchanged(1))
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
        torch.cat([part.blank for part in parts]),
        torch.cat([part.free for part in parts]),
    )


def _factor_map(
    factor: GroupPair | Unchanged | PairedAxis,
    expansions: Mapping[GroupPair, Expansion],
    consumed: frozenset[GroupPair],
    free: frozenset[GroupPair],
) -> AxisMap:
    if isinstance(factor, PairedAxis):
        return axis_map(factor, expansions, consumed, free)
    if isinstance(factor, Unchanged):
        return AxisMap.unchanged(factor.size)
    expansion = expansions[factor]
    if expansion.is_identity:
        return replace(AxisMap.unchanged(expansion.size), consumes=factor in consumed)
    blank, index = expansion.blank, expansion.index.clamp(min=0)
    if factor not in consumed:
        return AxisMap.copied(expansion.size, index, expansion.replica, blank)
    share = (1.0 / expansion.counts.double()).masked_fill(blank, 0.0)  # R = E^+
    shared = AxisMap.shared(expansion.size, index, expansion.replica, share)
    return replace(shared, blank=blank, free=blank & (factor in free))


def _product(outer: AxisMap, inner: AxisMap) -> AxisMap:
    """Return the map of a row-major product of two factors."""

    def combine(a: Tensor, b: Tensor, radix: int) -> Tensor:
        """Return `a * radix + b` for every pair, a varying slowest."""
        return (a[:, None] * radix + b[None, :]).reshape(-1)

    def either(a: Tensor, b: Tensor) -> Tensor:
        """Return `a or b` for every pair, a varying slowest."""
        return (a[:, None] | b[None, :]).reshape(-1)

    blank = either(outer.blank, inner.blank)
    # free are positions that are free in every factor where they are blank
    forbidden = either(outer.blank & ~outer.free, inner.blank & ~inner.free)
    return AxisMap(
        outer.size * inner.size,
        combine(outer.index, inner.index, inner.size),
        combine(outer.replica, inner.replica, inner.replicas),
        combine(outer.slot, inner.slot, inner.slots),
        outer.slots * inner.slots,
        (outer.share[:, None] * inner.share[None, :]).reshape(-1),
        outer.consumes or inner.consumes,
        blank,
        blank & ~forbidden,
    )
