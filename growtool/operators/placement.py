"""Where blocks go when a sequence grows: target position -> source block, as every depth operator answers it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placed:
    """One block of the grown sequence.

    Attributes:
        source: index of the block it is a copy of.
        new: whether growth added it.
        closed: whether its residual branch ends in zeros, so that it starts as the identity.
    """

    source: int
    new: bool
    closed: bool = False


def first_is_old(sources: list[int], *, closed: bool = False) -> list[Placed]:
    """The first copy of each source block is the block itself, later ones are new."""
    seen: set[int] = set()
    placed = []
    for source in sources:
        new = source in seen
        placed.append(Placed(source, new, new and closed))
        seen.add(source)
    return placed
