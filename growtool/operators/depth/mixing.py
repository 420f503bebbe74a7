"""`mixing`: every block a learned combination of the source's blocks (the depth half of LiGO, arXiv 2303.00980).

This is only the point where learning starts: blocks repeated in their place. `growtool.growing.learning` learns the
combinations.
"""

from __future__ import annotations

from growtool.operators.depth.interleave import arrange as interleaved
from growtool.operators.depth.placement import Placed
from growtool.plan.depth import Interleave, Mixing


def arrange(spec: Mixing, sources: tuple[int, ...], count: int) -> list[Placed]:
    """Return the start: `layer'_i = layer_{floor(i L / L')}`."""
    return interleaved(Interleave(), sources, count)


def loss(spec: Mixing) -> str:
    """Return why the operator changes the function."""
    return "mixing learns its combinations on images"
