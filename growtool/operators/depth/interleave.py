"""`interleave`: each block repeated in its place (interpolation, arXiv 2405.15319 and 2408.06567)."""

from __future__ import annotations

from growtool.operators.depth.placement import Placed, first_is_old
from growtool.plan.depth import Interleave


def arrange(spec: Interleave, sources: tuple[int, ...], count: int) -> list[Placed]:
    """Return `count` blocks: `layer'_i = layer_{floor(i L / L')}`."""
    return first_is_old([sources[m * len(sources) // count] for m in range(count)])


def loss(spec: Interleave) -> str:
    """Return why the operator changes the function."""
    return "interleave runs every repeated block once more"
