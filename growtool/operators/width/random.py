"""`random`: the baseline. The target as timm initialises it, or old values with timm's initialisation around them."""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, padded
from growtool.operators.base import Abilities, Layer
from growtool.plan.width import Random

ABILITIES = Abilities(every_tensor=True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return the old channels once, then blanks."""
    return padded(size, new_size, copies=1)


def grow(spec: Random, W: Tensor, layer: Layer) -> Tensor:
    """Return timm's initial values; with `parts: new` the source's wherever all dimensions have old channels."""
    if not layer.maps:
        return W
    assert layer.initial is not None, "the recipe hands the initial values over"
    fresh = layer.initial().to(W.dtype).clone()
    if spec.parts == "new":
        fresh[torch.meshgrid(*(axis.kept for axis in layer.maps), indexing="ij")] = W
    return fresh
