"""`lemon`: average expansion (LEMON, arXiv 2310.07999, section 4).

The residual stream is copied as often as it fits; what remains holds the mean of the old channels, which a LayerNorm
turns into zeros. An RMSNorm does not take the mean off: there zeros stand in the remainder. Hidden units and heads are
copied in turn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, circular
from growtool.algebra.knowledge import Blank
from growtool.operators.base import Layer, Read, split_among_copies
from growtool.plan.width import Lemon

BLANKS: tuple[Blank, ...] = ("mean", "silent")
ALWAYS = False


def expand(spec: Lemon, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Copies in turn, for channels that no norm treats jointly."""
    return circular(size, new_size)


def grow(spec: Lemon, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Share W among copies with noise that cancels."""
    return split_among_copies(W, layer, spec.gain)


def loss(spec: Lemon) -> str | None:
    """Why the operator itself changes the function, or None."""
    return None
