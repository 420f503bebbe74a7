"""Which source block stands at each position of a grown sequence: the answer that every depth operator gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from growtool.plan.depth import Placement

Start = Literal["copy", "zero_out", "cancel_out", "identity"]

# operator -> how its blocks with initial values start; `zero_out` for all others
_START_UNCOPIED: Mapping[str, Start] = {"cancel_out": "cancel_out", "shrink_perturb": "copy"}


@dataclass(frozen=True, slots=True)
class Placed:
    """One block of the grown sequence.

    Attributes:
        source: index of the block it copies; None for one that starts as its library initialises it.
        new: whether growth added it.
        start: how a new block starts: as a running `copy`; with a residual branch that ends in zeros (`zero_out`) or in
            weights that cancel (`cancel_out`); or with layers that pass on what they receive (`identity`).
    """

    source: int | None
    new: bool
    start: Start = "copy"

    def with_initial_values(self) -> Placed:
        """Return the same block; a new one with the values that its library initialises it with."""
        return replace(self, source=None) if self.new else self


def uncopied(operator: str) -> Placed:
    """Return a new block that copies none: closed, unless the operator runs blocks with initial values anyway."""
    return Placed(None, True, _START_UNCOPIED.get(operator, "zero_out"))


def first_is_old(sources: list[int], *, start: Start = "copy") -> list[Placed]:
    """Return a block per source block: the first of each is the block itself, later ones are new, with this start."""
    seen: set[int] = set()
    placed = []
    for source in sources:
        new = source in seen
        placed.append(Placed(source, new, start if new else "copy"))
        seen.add(source)
    return placed


def inserted(placement: Placement, sources: tuple[int, ...], count: int, start: Start) -> list[Placed]:
    """Return `count` blocks with new ones among the old, each a copy of the old block before it.

    Args:
        placement: `interleaved`: a new block after every L / (L' - L) old ones; `end`: new blocks after all old ones.
        sources: the L blocks of the source.
        count: L', the number of blocks.
        start: how new blocks start.
    """
    old = len(sources)
    if placement == "end":
        return first_is_old([sources[min(m, old - 1)] for m in range(count)], start=start)
    # position m has block ceil((m + 1) L / L'), counted from 1, so that the last position has the last block
    return first_is_old([sources[-(-(m + 1) * old // count) - 1] for m in range(count)], start=start)
