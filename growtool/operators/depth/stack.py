"""`stack`: the blocks of a stage repeated as a whole (G_stack, arXiv 2405.15319)."""

from __future__ import annotations

from growtool.operators.depth.placement import Placed, first_is_old
from growtool.plan.depth import Stack


def arrange(spec: Stack, sources: tuple[int, ...], count: int) -> list[Placed]:
    """Return `count` blocks: `layer'_i = layer_{i mod L}`."""
    return first_is_old([sources[m % len(sources)] for m in range(count)])


def loss(spec: Stack) -> str:
    """Return why the operator changes the function."""
    return "stack runs every repeated block once more"
