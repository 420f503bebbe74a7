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
        blank: bool [M], positions that copy none; None if there are none.
        free: bool [M], blank positions that a sum runs over and that meet zeros alone, so that they may hold anything;
            None: no position.
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
    def copied(cls, size: int, index: Tensor, replica: Tensor) -> AxisMap:
        """Return the map where positions are copied and no sum runs over them: each is a slot of its own."""
        m = len(index)
        return cls(size, index, replica, torch.arange(m), m, torch.ones(m, dtype=torch.float64), False)

    def part(self, positions: Tensor) -> AxisMap:
        """Return the map of some of the positions (int64), of a dimension that no sum runs over."""
        chosen = AxisMap.copied(self.size, self.index[positions], self.replica[positions])
        return chosen if self.blank is None else replace(chosen, blank=self.blank[positions])

    @property
    def fingerprint(self) -> bytes:
        """A digest that is equal for equal maps, and for no others."""
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
        return torch.arange(len(self.index)) if self.blank is None else torch.nonzero(~self.blank).flatten()


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
        _joined([part.blank for part in parts], parts),
        _joined([part.free for part in parts], parts),
    )


def _joined(masks: list[Tensor | None], parts: list[AxisMap]) -> Tensor | None:
    """Concatenate masks of the parts' positions; return None if all are None."""
    return None if all(mask is None for mask in masks) else torch.cat(list(map(_of_each_position, masks, parts)))


def _of_each_position(mask: Tensor | None, part: AxisMap) -> Tensor:
    """Return a mask of the positions of a map, bool [M]; None stands for a mask of zeros."""
    return torch.zeros(len(part.index), dtype=torch.bool) if mask is None else mask


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
    blank = expansion.blank if expansion.has_blanks else None
    index = expansion.index.clamp(min=0)
    if factor not in consumed:
        return replace(AxisMap.copied(expansion.size, index, expansion.replica), blank=blank)
    share = 1.0 / expansion.counts.double()  # R = E^+
    if blank is not None:
        share = share.masked_fill(blank, 0.0)
    return AxisMap(
        expansion.size, index, expansion.replica, index, expansion.size, share, True,
        blank, None if blank is None else blank & (factor in free),
    )  # fmt: skip


def _product(outer: AxisMap, inner: AxisMap) -> AxisMap:
    """Return the map of a row-major product of two factors."""

    def combine(a: Tensor, b: Tensor, radix: int) -> Tensor:
        """Return `a * radix + b` for every pair, a varying slowest."""
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
    """Return which positions are blank: in either factor; and which are free: in every factor where they are blank."""
    if outer.blank is None and inner.blank is None:
        return None, None

    def either(a: Tensor | None, b: Tensor | None) -> Tensor:
        return (_of_each_position(a, outer)[:, None] | _of_each_position(b, inner)).reshape(-1)

    blank = either(outer.blank, inner.blank)
    return blank, blank & ~either(_forbidden(outer), _forbidden(inner))


def _forbidden(part: AxisMap) -> Tensor | None:
    """Return which positions are blank and not free."""
    return part.blank if part.free is None or part.blank is None else part.blank & ~part.free
