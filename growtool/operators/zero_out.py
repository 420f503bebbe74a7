"""`zero_out`: copied blocks whose residual branch ends in zeros, so that they start as the identity (LLaMA Pro, arXiv
2401.02415). Exactly the last affine layer of each branch is zeroed; its gradient is not zero, so the block learns."""

from __future__ import annotations

from growtool.operators.placement import Placed, first_is_old
from growtool.plan.schema import ZeroOut


def arrange(spec: ZeroOut, sources: tuple[int, ...], count: int) -> list[Placed]:
    """`interleaved`: a new block after every L / (L' - L) old ones; `end`: new blocks after all old ones."""
    kept = len(sources)
    if spec.placement == "end":
        return first_is_old([sources[min(m, kept - 1)] for m in range(count)], closed=True)
    return first_is_old([sources[-(-(m + 1) * kept // count) - 1] for m in range(count)], closed=True)


def loss(spec: ZeroOut) -> str | None:
    """Why the operator itself changes the function, or None."""
    return None
