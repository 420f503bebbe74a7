"""`centre_zero`: zeros beside channels whose mean over channels is zero, for any width of a pre-LayerNorm network.

LEMON (arXiv 2310.07999) pads the residual stream with averages, which a LayerNorm turns into zeros. A LayerNorm is
blind to a constant over its channels, so all that writes the stream may be centred first. Then the average is zero, and
plain zeros do, at any width. Hidden units and heads are copied in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, circular
from growtool.operators.base import Abilities, Layer, split_among_copies
from growtool.plan.width import CentreZero, Lemon

ABILITIES = Abilities(blanks=("silent",))


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return copies in turn, for channels that no norm treats jointly; others get blanks (`recipe.widths.expand`)."""
    return circular(size, new_size)


def grow(spec: CentreZero | Lemon, W: Tensor, layer: Layer) -> Tensor:
    """Return W split among copies, with noise that cancels."""
    return split_among_copies(W, layer, spec.gain)
