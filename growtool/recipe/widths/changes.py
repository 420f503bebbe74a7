"""The width groups that grow, and how they are told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from growtool.algebra.expansion import Blank
from growtool.trace import Channels, places


@dataclass(frozen=True, slots=True)
class WidthChange:
    """A width group that grows.

    Attributes:
        group: its name, that of its first member.
        channels: what a user calls it.
        before, after: its size.
        tensors: how many carry it.
        copies: channels that copy one of the others; the rest of the new ones copy none.
        holds: what these hold; None where all are copies, and where the operator decides.
    """

    group: str
    channels: Channels
    before: int
    after: int
    tensors: int
    copies: int = 0
    holds: Blank | None = None


@dataclass(frozen=True, slots=True)
class AlikeChanges:
    """Width groups of one kind that grow from one size to another.

    Attributes:
        what: `heads`, `hidden units of mlp`, ...
        before, after: the size of each.
        groups: how many there are.
        where: paths of the blocks, or else the modules, that hold them.
    """

    what: str
    before: int
    after: int
    groups: int
    where: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} {self.before} -> {self.after} ({places(self.where)})"


def alike(changes: Iterable[WidthChange]) -> tuple[AlikeChanges, ...]:
    """What grows, each kind and size once, in the order of the model."""
    found: dict[tuple[str, int, int], list[WidthChange]] = defaultdict(list)
    for change in changes:
        found[change.channels.what, change.before, change.after].append(change)
    return tuple(
        AlikeChanges(*key, len(group), tuple(dict.fromkeys(path for change in group for path in change.channels.where)))
        for key, group in found.items()
    )
