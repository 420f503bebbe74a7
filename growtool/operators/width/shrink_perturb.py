"""`shrink_perturb`: the source shrunk, padded with zeros, and the target's initial values added (arXiv 2605.13405).

The simple baseline beside `random`: no function is kept, only a direction to start from. A new block is padding as a
whole: it holds initial values, and runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, padded
from growtool.operators.base import Abilities, Layer
from growtool.plan.section import ShrinkPerturb

ABILITIES = Abilities(every_tensor=True, deeper=True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return the old channels once, then blanks."""
    return padded(size, new_size, copies=1)


def grow(spec: ShrinkPerturb, W: Tensor, layer: Layer) -> Tensor:
    """Return `lambda pad(W) + V` for a matrix, V the initial values; a vector keeps its own, with V beside them."""
    if not layer.maps:
        return W
    assert layer.initial is not None, "the recipe hands the initial values over"
    grown = layer.initial().to(W.dtype).clone()
    old = torch.meshgrid(*(axis.kept for axis in layer.maps), indexing="ij")
    if sum(size > 1 for size in grown.shape) < 2:
        grown[old] = W
    else:
        grown[old] += spec.shrink * W
    return grown
