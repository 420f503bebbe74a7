"""`joint`: every block a learned combination of the source's blocks (the depth half of LiGO, arXiv 2303.00980).

Here is only where learning starts: blocks repeated in their place. `growtool.growing.learning` learns.
"""

from __future__ import annotations

from growtool.operators.depth.interleave import arrange as interleaved
from growtool.operators.depth.placement import Placed
from growtool.plan.depth import Interleave, Mixing


def arrange(spec: Mixing, sources: tuple[int, ...], count: int) -> list[Placed]:
    """The start: `layer'_i = layer_{floor(i L / L')}`."""
    return interleaved(Interleave(), sources, count)


def loss(spec: Mixing) -> str:
    """Why the operator changes the function."""
    return "mixing learns its combinations on images"
