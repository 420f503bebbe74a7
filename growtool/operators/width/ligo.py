"""`ligo`: expansion maps learned on images, then written out as weights (LiGO, arXiv 2303.00980).

This is only the point where learning starts: whole copies whose readers share the weight. `growtool.growing.learning`
learns the maps.
"""

from __future__ import annotations

from torch import Tensor

from growtool.algebra.expansion import copied_evenly
from growtool.algebra.layers import split_evenly
from growtool.operators.base import Abilities, Layer
from growtool.plan.width import Ligo

ABILITIES = Abilities()
expand = copied_evenly


def grow(spec: Ligo, W: Tensor, layer: Layer) -> Tensor:
    """Return the start: W split equally among the copies."""
    return split_evenly(W, layer.maps)
