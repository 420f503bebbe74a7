"""`shrink_perturb`: the source shrunk, padded with zeros, and the target's initial values added (arXiv 2605.13405).

The simple baseline beside `random`: no function is kept, only a direction to start from. A new block is padding as a
whole: it holds initial values, and runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, padded
from growtool.operators.base import Abilities, Layer, Read
from growtool.operators.depth.placement import Placed, inserted
from growtool.plan.both import ShrinkPerturb

ABILITIES = Abilities(every_tensor=True, deeper=True)


def expand(spec: ShrinkPerturb, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return the old channels once, then blanks."""
    return padded(size, new_size, copies=1)


def arrange(spec: ShrinkPerturb, sources: tuple[int, ...], count: int) -> list[Placed]:
    """Return the old blocks, then new ones that come from none."""
    return [placed.with_initial_values() for placed in inserted("end", sources, count, "copy")]


def grow(spec: ShrinkPerturb, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Return `lambda pad(W) + V` for a matrix, V the initial values; a vector keeps its own, with V beside them."""
    if not layer.maps:
        return W
    assert layer.initial is not None, "the recipe hands the initial values over"
    grown = layer.initial(layer.name).to(W.dtype).clone()
    old = torch.meshgrid(*(axis.kept for axis in layer.maps), indexing="ij")
    if sum(size > 1 for size in grown.shape) < 2:
        grown[old] = W
    else:
        grown[old] += spec.shrink * W
    return grown


def loss(spec: ShrinkPerturb) -> str:
    """Return why the operator changes the function."""
    return "shrink_perturb shrinks what was trained and adds initial values"
