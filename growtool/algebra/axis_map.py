"""How one dimension of a tensor grows: the expansions of its factors, put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.algebra.places import Places, as_places
from growtool.trace import GroupPair, PairedAxis, Unchanged


@dataclass(frozen=True)
class AxisMap:
    """One tensor dimension, N positions before and M after, assembled from the expansions of its factors.

    Attributes:
        size: N.
        index: int64 [M], the source position of each target position; 0 where the position is blank.
        replica: int64 [M], which copy of its source position it is, counted over all factors that grow.
        slot: int64 [M], positions a sum runs over together: those of one slot must add up to the source's value.
        slots: number of slots.
        share: float64 [M], the equal split; sums to 1 over each slot. All ones where nothing is summed.
        consumes: whether a sum runs over (part of) this dimension.
        blank: bool [M], positions that copy none; None where there are none.
        free: bool [M], blank positions a sum runs over that meet zeros alone, so that any value may stand there.
    """

    size: int
    index: Tensor
    replica: Tensor
    slot: Tensor
    slots: int
    share: Tensor
    consumes: bool
    blank: Tensor | None = None
    free: Tensor | None = None

    @property
    def copies(self) -> Tensor:
        """int64 [M]: how many positions hold the source position that this one holds, itself included."""
        held = self.index if self.blank is None else self.index[~self.blank]
        return torch.bincount(held, minlength=self.size)[self.index]

    @property
    def factor(self) -> float:
        """Positions that copy one, over positions before."""
        blank = 0 if self.blank is None else int(self.blank.sum())
        return (len(self.index) - blank) / self.size

    @classmethod
    def unchanged(cls, size: int) -> AxisMap:
        """Every position stays; no sum runs over them."""
        return cls.copied(size, torch.arange(size), torch.zeros(size, dtype=torch.int64))

    @classmethod
    def copied(cls, size: int, index: Tensor, replica: Tensor) -> AxisMap:
        """Positions are copied, no sum runs over them: each is a slot of its own."""
        m = len(index)
        return cls(size, index, replica, torch.arange(m), m, torch.ones(m, dtype=torch.float64), False)

    def part(self, positions: Tensor) -> AxisMap:
        """Some of the positions (int64), of a dimension that no sum runs over."""
        some = AxisMap.copied(self.size, self.index[positions], self.replica[positions])
        return some if self.blank is None else replace(some, blank=self.blank[positions])

    @property
    def fingerprint(self) -> bytes:
        """The same for maps that are equal in everything, and for no others."""
        digest = hashlib.sha256(f"{self.size} {self.slots} {self.consumes}".encode())
        for part in (self.index, self.replica, self.slot, self.share, self.blank, self.free):
            digest.update(b"-" if part is None else part.numpy().tobytes())
        return digest.digest()

    @cached_property
    def is_identity(self) -> bool:
        """Whether the dimension stays as it is."""
        return (
            self.blank is None and len(self.index) == self.size and bool((self.index == torch.arange(self.size)).all())
        )

    @property
    def replicas(self) -> int:
        """Number of copies of the most copied position."""
        return int(self.replica.max()) + 1 if len(self.replica) else 1

    @cached_property
    def slot_source(self) -> Tensor:
        """int64 [slots]: the source position whose value a slot adds up to."""
        source = torch.zeros(self.slots, dtype=torch.int64)
        source[self.slot[self.kept]] = self.index[self.kept]
        return source

    @cached_property
    def turns(self) -> tuple[tuple[Places, Places], ...]:
        """Of the first position in each slot, of the second, and so on: the positions, and their slots."""
        order = self.kept[torch.argsort(self.slot[self.kept], stable=True)]
        slots = self.slot[order]
        starts = torch.searchsorted(slots, slots)
        turn = torch.arange(len(slots)) - starts
        found = (turn == number for number in range(int(turn.max()) + 1 if len(turn) else 0))
        return tuple((as_places(order[own]), as_places(slots[own])) for own in found)

    @property
    def kept(self) -> Tensor:
        """int64: the positions that are copies, in order."""
        return torch.arange(len(self.index)) if self.blank is None else torch.nonzero(~self.blank).flatten()


def axis_map(
    axis: PairedAxis,
    expansions: Mapping[GroupPair, Expansion],
    consumed: frozenset[GroupPair],
    free: frozenset[GroupPair] = frozenset(),
) -> AxisMap:
    """Assemble the map of a dimension from its layout (a Kronecker product per segment, segments one after the other).

    Args:
        axis: the layout in both models.
        expansions: how each set of channels grows.
        consumed: the sets a sum runs over in this very dimension.
        free: those of them whose blank channels carry zeros wherever this dimension meets them.
    """
    parts = [_segment_map(segment, expansions, consumed, free) for segment in axis.segments]
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
        _joined([part.blank for part in parts], parts),
        _joined([part.free for part in parts], parts),
    )


def _joined(masks: list[Tensor | None], parts: list[AxisMap]) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    empty = (torch.zeros(len(part.index), dtype=torch.bool) for part in parts)
    return torch.cat([other if mask is None else mask for mask, other in zip(masks, empty, strict=True)])


def _segment_map(
    segment: tuple[GroupPair | Unchanged | PairedAxis, ...],
    expansions: Mapping[GroupPair, Expansion],
    consumed: frozenset[GroupPair],
    free: frozenset[GroupPair],
) -> AxisMap:
    factors = [_factor_map(factor, expansions, consumed, free) for factor in segment]
    return reduce(_product, factors) if factors else AxisMap.unchanged(1)


def _factor_map(
    factor: GroupPair | Unchanged | PairedAxis,
    expansions: Mapping[GroupPair, Expansion],
    consumed: frozenset[GroupPair],
    free: frozenset[GroupPair],
) -> AxisMap:
    if isinstance(factor, PairedAxis):
        return axis_map(factor, expansions, consumed, free)
    if isinstance(factor, Unchanged):
        return _unchanged(factor.size, False)
    expansion = expansions[factor]
    if expansion.is_identity:
        return _unchanged(expansion.size, factor in consumed)
    blank = expansion.blank if expansion.has_blanks else None
    index = expansion.index.clamp(min=0)
    if factor not in consumed:
        return replace(AxisMap.copied(expansion.size, index, expansion.replica), blank=blank)
    share = 1.0 / expansion.counts.double()
    if blank is not None:
        share = share.masked_fill(blank, 0.0)
    return AxisMap(
        expansion.size, index, expansion.replica, index, expansion.size, share, True,
        blank, None if blank is None else blank & (factor in free),
    )  # fmt: skip


@lru_cache(maxsize=256)  # most dimensions of most tensors stay
def _unchanged(size: int, consumes: bool) -> AxisMap:
    return replace(AxisMap.unchanged(size), consumes=consumes)


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
        *_product_of_blanks(outer, inner),
    )


def _product_of_blanks(outer: AxisMap, inner: AxisMap) -> tuple[Tensor | None, Tensor | None]:
    """A position is blank if it is so in either factor, and free if no factor in which it is blank forbids it."""
    if outer.blank is None and inner.blank is None:
        return None, None

    def spread(masks: tuple[Tensor | None, Tensor | None]) -> Tensor:
        a, b = (
            torch.zeros(len(part.index), dtype=torch.bool) if mask is None else mask
            for mask, part in zip(masks, (outer, inner), strict=True)
        )
        return (a[:, None] | b[None, :]).reshape(-1)

    blank = spread((outer.blank, inner.blank))
    return blank, blank & ~spread((_forbidden(outer), _forbidden(inner)))


def _forbidden(part: AxisMap) -> Tensor | None:
    return part.blank if part.free is None or part.blank is None else part.blank & ~part.free
