"""`net2net`: copies of channels drawn at random, for any width (Net2WiderNet, arXiv 1511.05641, section 2.2)."""

from __future__ import annotations

from growtool.algebra.expansion import copied_at_random
from growtool.operators.copies import EQUAL_IN_SPAN, grow_copies, split_coefficients

ABILITIES = EQUAL_IN_SPAN
expand = copied_at_random
grow = grow_copies  # the paper's split is the equal one
grow_coefficients = split_coefficients
