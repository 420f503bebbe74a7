"""How often the positions of a symbolic axis stand in the target, once its sets of channels have grown."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.algebra.expansion import Expansion
from growtool.trace import Axis, ChannelGroup


def copies_per_position(axis: Axis, expansions: Mapping[ChannelGroup, Expansion]) -> int | None:
    """How often each source position of the axis stands in the target, if equally often, else None."""
    per_segment = set()
    for segment in axis:
        copies = 1
        for factor in segment:
            if isinstance(factor, ChannelGroup):
                times = expansions[factor].multiplicity if factor in expansions else 1
            else:
                times = copies_per_position(factor, expansions)
            if times is None:
                return None
            copies *= times
        per_segment.add(copies)
    return per_segment.pop() if len(per_segment) == 1 else None
