"""`zero_out`: copied blocks whose residual branch ends in zeros, so that they start as the identity (LLaMA Pro, arXiv
2401.02415).

Exactly the last affine layer of each branch is zeroed: its gradient is not zero, so the block learns.
"""

from __future__ import annotations

from growtool.operators.base import no_loss
from growtool.operators.depth.placement import Placed, inserted
from growtool.plan.depth import ZeroOut

loss = no_loss


def arrange(spec: ZeroOut, sources: tuple[int, ...], count: int) -> list[Placed]:
    """Return the old blocks with new ones among them, each a closed copy of the one before it."""
    return inserted(spec.placement, sources, count, "zero_out")
