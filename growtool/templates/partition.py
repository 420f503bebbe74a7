"""Cutting the channels of a layer's axis into equal parts, as blocks of a grid."""

from __future__ import annotations

from itertools import repeat

from growtool.checkpoint import Layout
from growtool.trace import Axis, ChannelGroup
from growtool.trace.axes import axis_size, segment_size


def parted(axis: Axis, parts: int) -> Layout:
    """The axis with the channels of each of its segments cut into `parts` neighbouring parts.

    A packed qkv of heads is cut by heads, each of q, k and v alike, so that block b holds part b of all three. An axis
    whose channels may not grow, or do not divide, stays whole.
    """
    places: list[tuple[int, int]] = []
    filled = [0] * parts
    for segment in axis:
        blocks = _segment_blocks(segment, parts)
        if blocks is None:
            return Layout.whole(axis_size(axis))
        for block in blocks:
            places.append((block, filled[block]))
            filled[block] += 1
    return Layout.of(places)


def _segment_blocks(segment: tuple[ChannelGroup | Axis, ...], parts: int) -> list[int] | None:
    """The block of each position of a product of factors: that of the outermost channels that may grow."""
    for place, factor in enumerate(segment):
        if isinstance(factor, ChannelGroup) and not factor.fixed:
            if factor.size % parts:
                return None
            outer, inner = segment_size(segment[:place]), segment_size(segment[place + 1 :])
            each = factor.size // parts
            return [channel // each for _ in range(outer) for channel in range(factor.size) for _ in repeat(0, inner)]
    return None
