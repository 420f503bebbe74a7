"""`aki`: advanced knowledge initialisation (bert2BERT, arXiv 2110.07143, section 3.3).

As `fpi`, but the new rows of a layer are rows of the same layer one block on: `W'_l = [W_l; W_(l+1)[g]] R`. The last
block, and whatever stands in no sequence of blocks, copies its own rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import copied_evenly
from growtool.algebra.layers import split_evenly
from growtool.operators.base import Abilities, Layer, rows_of
from growtool.plan.width import Aki

ABILITIES = Abilities()
expand = copied_evenly


def grow(spec: Aki, W: Tensor, layer: Layer) -> Tensor:
    """Return old rows of the layer itself and new rows of the same layer in the next block, columns split equally."""
    grown = split_evenly(W, layer.maps)
    rows = rows_of(layer.maps)
    if layer.next_block is None or rows is None:
        return grown
    following = split_evenly(layer.next_block(), layer.maps)
    new = torch.nonzero(layer.maps[rows].replica > 0).flatten()
    return grown.index_copy_(rows, new, following.index_select(rows, new))
