"""`net2net`: copies of channels drawn at random, for any width (Net2WiderNet, arXiv 1511.05641, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Expansion, copied_at_random
from growtool.operators.base import Abilities, Layer, Read, split_coefficients
from growtool.operators.copies import grow_copies, loss_of_copies
from growtool.plan.width import Net2Net

ABILITIES = Abilities(in_span=lambda section: section.split == "equal")
loss = loss_of_copies


def expand(spec: Net2Net, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return all channels, then copies of random ones."""
    return copied_at_random(size, new_size, generator)


def grow(spec: Net2Net, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Return W shared among the copies as `spec` says; the paper's split is the equal one."""
    return grow_copies(spec, W, layer)


def grow_coefficients(spec: Net2Net, W: Tensor, layer: Layer, rows: AxisMap, columns: AxisMap) -> Tensor:
    """Return the coefficients of the grown weight, for a weight in template form, float64 [k_out, k_in, T]."""
    return split_coefficients(layer, rows, columns)
