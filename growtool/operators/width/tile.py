"""`tile`: whole copies of all channels (HyperCloning, arXiv 2409.12903; FPI, arXiv 2110.07143)."""

from __future__ import annotations

import torch

from growtool.algebra.expansion import Expansion, tiled
from growtool.operators.copies import EQUAL_IN_SPAN, grow_copies, split_coefficients

ABILITIES = EQUAL_IN_SPAN
grow = grow_copies
grow_coefficients = split_coefficients


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return whole copies `[h, h, ...]`.

    Raises:
        ValueError: `new_size` is not a multiple of `size`.
    """
    return tiled(size, new_size)
