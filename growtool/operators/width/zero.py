"""`zero`: composable expansions (Gesmundo and Maile, arXiv 2308.06103), which copy nothing.

New hidden units and heads start at random, and the weights that read them start at zero. New channels of a residual
stream start at zero, with the gains of the norms over them rescaled; under a LayerNorm the stream is centred first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, circular
from growtool.operators.base import Abilities, Layer, split_among_copies
from growtool.plan.width import Zero

ABILITIES = Abilities(blanks=("open", "silent"), always_blank=True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return copies in turn, for channels that can be neither left unread nor left at zero."""
    return circular(size, new_size)


def grow(spec: Zero, W: Tensor, layer: Layer) -> Tensor:
    """Return old values where channels were, zeros or random numbers beside them."""
    return split_among_copies(W, layer, None)
