"""Axes of two models seen as one: the same layout, with the channels of the small model and of the large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

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

    def parts(self, side: Literal[0, 1]) -> tuple[Tensor, int]:
        """Return which part of the axis each position lies in (int64 [positions]), and how many parts there are.

        Parts are segments that lie side by side: queries, keys and values of a packed matrix, within each head perhaps.

        Args:
            side: 0 for the source's positions, 1 for the target's.
        """
        part_of_position, parts = list[Tensor](), 0
        for segment in self.segments:
            part, parts_here = torch.zeros(1, dtype=torch.int64), 1
            for factor in segment:
                if isinstance(factor, PairedAxis):
                    inner, parts_inside = factor.parts(side)
                else:
                    size = factor.size if isinstance(factor, Unchanged) else factor.sizes[side]
                    inner, parts_inside = torch.zeros(size, dtype=torch.int64), 1
                part, parts_here = (part[:, None] * parts_inside + inner).reshape(-1), parts_here * parts_inside
            part_of_position.append(part + parts)
            parts += parts_here
        return torch.cat(part_of_position), parts
