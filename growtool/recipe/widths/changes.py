"""The width groups that grow, and how messages name them."""

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
        group: name of the group, which is that of its first member.
        channels: what a user calls its channels.
        before, after: number of its channels.
        tensors: number of tensors that carry it.
        copies: number of new channels that copy an old one; the other new channels are blank.
        holds: what blank channels hold; None if all new channels are copies, or if the operator decides.
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
        what: their channels in words: `heads`, `hidden units of mlp`, ...
        before, after: number of channels of each group.
        groups: number of groups.
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
    """Return changes of the same kind and sizes as one, in the order of the model."""
    by_kind: dict[tuple[str, int, int], list[WidthChange]] = defaultdict(list)
    for change in changes:
        by_kind[change.channels.what, change.before, change.after].append(change)
    found = []
    for (what, before, after), groups in by_kind.items():
        where = dict.fromkeys(path for change in groups for path in change.channels.where)
        found.append(AlikeChanges(what, before, after, len(groups), tuple(where)))
    return tuple(found)
