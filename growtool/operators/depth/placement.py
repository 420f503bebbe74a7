"""Where blocks go when a sequence grows: target position -> source block, as every depth operator answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from growtool.plan.depth import Placement

Start = Literal["copy", "zero_out", "cancel_out", "identity"]


_ANEW: Mapping[str, Start] = {"cancel_out": "cancel_out", "shrink_perturb": "copy"}


@dataclass(frozen=True, slots=True)
class Placed:
    """One block of the grown sequence.

    Attributes:
        source: index of the block it is a copy of; None for one that starts as its library initialises it.
        new: whether growth added it.
        start: how a new block starts: as a running `copy`; with a residual branch that ends in zeros (`zero_out`) or in
            weights that cancel (`cancel_out`); or with layers that pass on what they receive (`identity`).
    """

    source: int | None
    new: bool
    start: Start = "copy"

    def anew(self) -> Placed:
        """The same block with the values that its library initialises it with, if it is new."""
        return replace(self, source=None) if self.new else self


def made_anew(operator: str) -> Placed:
    """A block for which there is none to copy: closed, but where the operator runs initial values anyway."""
    return Placed(None, True, _ANEW.get(operator, "zero_out"))


def first_is_old(sources: list[int], *, start: Start = "copy") -> list[Placed]:
    """The first copy of each source block is the block itself, later ones are new and start as `start` says."""
    seen: set[int] = set()
    placed = []
    for source in sources:
        new = source in seen
        placed.append(Placed(source, new, start if new else "copy"))
        seen.add(source)
    return placed


def inserted(placement: Placement, sources: tuple[int, ...], count: int, start: Start) -> list[Placed]:
    """`interleaved`: a new block after every L / (L' - L) old ones; `end`: new blocks after all old ones."""
    kept = len(sources)
    if placement == "end":
        return first_is_old([sources[min(m, kept - 1)] for m in range(count)], start=start)
    return first_is_old([sources[-(-(m + 1) * kept // count) - 1] for m in range(count)], start=start)
