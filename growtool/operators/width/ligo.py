"""`ligo`: expansion maps learned on images, then written out as weights (LiGO, arXiv 2303.00980).

This is only the point where learning starts: whole copies whose readers share the weight. `growtool.growing.learning`
learns the maps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, copied_evenly
from growtool.algebra.layers import split_evenly
from growtool.operators.base import Abilities, Layer, Read
from growtool.plan.width import Ligo

ABILITIES = Abilities()


def expand(spec: Ligo, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return whole copies, then copies of random channels, no channel twice among these."""
    return copied_evenly(size, new_size, generator)


def grow(spec: Ligo, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Return the start: W split equally among the copies."""
    return split_evenly(W, layer.maps)


def loss(spec: Ligo) -> str:
    """Return why the operator changes the function."""
    return "ligo learns its maps on images"
