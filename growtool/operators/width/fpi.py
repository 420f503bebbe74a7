"""`fpi`: function-preserving initialisation (bert2BERT, arXiv 2110.07143, section 3.2).

Net2WiderNet on every axis of a transformer, with the maps of coupled axes tied and heads copied whole; the trace sees
to both. Whole copies come first, so that whole multiples are exact under a norm; the remainder is random.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, copied_evenly
from growtool.operators.base import Abilities, Layer, Read
from growtool.operators.copies import grow_copies, loss_of_copies
from growtool.plan.width import Fpi

ABILITIES = Abilities()
loss = loss_of_copies


def expand(spec: Fpi, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return whole copies, then copies of random channels, no channel twice among these."""
    return copied_evenly(size, new_size, generator)


def grow(spec: Fpi, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Return W shared among the copies as `spec` says; the paper's split is the equal one."""
    return grow_copies(spec, W, layer)
