"""Axes of two models seen as one: the same layout, with the channels of the small model and of the large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from growtool.trace.axes import ChannelGroup


@dataclass(frozen=True, slots=True)
class GroupPair:
    """A channel group in both models; `source` is None if the small model has a single channel (one head)."""

    source: ChannelGroup | None
    target: ChannelGroup

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of channels before and after growth."""
        return (self.source.size if self.source else 1), self.target.size


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Positions that keep their number and order: of kernels, classes, tokens."""

    size: int


PairedFactor: TypeAlias = "GroupPair | Unchanged | PairedAxis"


@dataclass(frozen=True, slots=True)
class PairedAxis:
    """An axis in both models: a concatenation of products, as `Axis` is, of paired factors."""

    segments: tuple[tuple[PairedFactor, ...], ...]

    def growths(self) -> list[GroupPair]:
        """Return the channel groups on the axis, in order."""
        pairs: list[GroupPair] = []
        for segment in self.segments:
            for factor in segment:
                if isinstance(factor, GroupPair):
                    pairs.append(factor)
                elif isinstance(factor, PairedAxis):
                    pairs += factor.growths()
        return pairs
