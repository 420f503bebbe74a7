"""`variance_transfer`: new units in pairs that cancel (variance transfer, arXiv 2306.12700).

`W1' = [W1; V; V]`, `W2' = [W2, Z, -Z]`: the two units of a pair compute the same, and their readers read them with
opposite weights. Both have a gradient from the first step, and as the two gradients are opposite, the units part. The
published method also rescales the trained weights to the variance that a layer with h' inputs in place of h should
have, `W2' = [sqrt(h / h') W2, Z, -Z]`; that changes the function, except before a BatchNorm whose statistics are scaled
along.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, circular
from growtool.algebra.layers import deviation, summed_dim
from growtool.operators.base import Abilities, Layer, split_among_copies
from growtool.plan.width import VarianceTransfer

ABILITIES = Abilities(blanks=("open", "silent"), always_blank=True, in_pairs=True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return copies in turn, for channels that can be neither left unread nor left at zero."""
    return circular(size, new_size)


def grow(spec: VarianceTransfer, W: Tensor, layer: Layer) -> Tensor:
    """Return W with new rows equal in pairs and new columns opposite in pairs, zero for a unit without partner."""
    grown = split_among_copies(W, layer, None)
    dim = summed_dim(layer.maps)
    for at, partner in layer.pair_partners:
        if layer.maps[at].consumes:
            noise = torch.randn(grown.shape, generator=layer.generator(), dtype=grown.dtype)
            opposite = noise - noise.index_select(at, partner)  # zero where a position is its own partner
            blank = layer.maps[at].blank
            new = torch.nonzero(blank).flatten()
            size = deviation(W) / math.sqrt(2)
            if dim == at and spec.rescale:
                grown.mul_(math.sqrt(layer.maps[at].size / len(blank)))
            grown.index_copy_(at, new, opposite.index_select(at, new).mul_(size))
        else:
            first = torch.minimum(torch.arange(len(partner)), partner)  # both of a pair have the first one's row
            grown = grown.index_select(at, first)
    return grown
