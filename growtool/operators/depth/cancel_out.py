"""`cancel_out`: copied blocks whose residual branch ends in weights that cancel (LEMON, arXiv 2310.07999, section 4.2).

The hidden units of a new block are copies of each other in pairs, and the layer that ends the branch reads the two of a
pair with opposite weights: the branch adds nothing, and yet no weight in it has a zero gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.algebra.layers import deviation


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The places of opposite weights in the tensor that closes a branch.

    Attributes:
        dim: the dimension along which the branch's hidden units are summed over.
        partner: int64 [its size], the other position of each pair; a position without partner has its own.
        gain: deviation of the weights relative to that of the weights they replace.
    """

    dim: int
    partner: Tensor
    gain: float


def pairs(size: int) -> tuple[Tensor, Tensor]:
    """Pair up hidden units: the first half stays, the second half copies it; of an odd number the last stays alone.

    Returns:
        For each unit, int64 [size]: the unit whose parameters it has; and the other unit of its pair.
    """
    half = size // 2
    unit = torch.arange(size)
    source = torch.where((unit >= half) & (unit < 2 * half), unit - half, unit)
    partner = torch.where(unit < half, unit + half, source)
    return source, partner


def cancelling(W: Tensor, where: Cancellation, generator: torch.Generator) -> Tensor:
    """Return random weights that are opposite for the two positions of a pair, and zero for a position without partner.

    Returns:
        Weights of the shape and type of `W`; at pairs their deviation is `gain` times W's.
    """
    noise = torch.randn(W.shape, generator=generator, dtype=W.dtype)
    opposite = noise - noise.index_select(where.dim, where.partner)  # twice the variance of one draw
    return opposite.mul_(where.gain * deviation(W) / 2**0.5)
