"""`centre_zero`: zeros beside channels whose mean over channels is zero, for any width of a pre-LayerNorm network.

LEMON (arXiv 2310.07999) pads the residual stream with averages, which a LayerNorm turns into zeros. A LayerNorm does
not see a constant over its channels, so whatever writes the stream may be centred first; then the average is zero, and
plain zeros do, at any width. Hidden units and heads are copied in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, circular
from growtool.operators.base import Abilities, Layer, Read, no_loss, split_among_copies
from growtool.plan.width import CentreZero, Lemon

ABILITIES = Abilities(blanks=("silent",))
loss = no_loss


def expand(spec: CentreZero | Lemon, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Copies in turn, for channels that no norm treats jointly."""
    return circular(size, new_size)


def grow(spec: CentreZero | Lemon, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Share W among copies with noise that cancels."""
    return split_among_copies(W, layer, spec.gain)
