"""`fpi`: function-preserving initialisation (bert2BERT, arXiv 2110.07143, section 3.2).

Net2WiderNet on every axis of a transformer, with the maps of coupled axes tied and heads copied whole; the trace sees
to both. Whole copies come first, so that whole multiples are exact under a norm; the remainder is random.
"""

from __future__ import annotations

from growtool.algebra.expansion import copied_evenly
from growtool.operators.copies import EQUAL_IN_SPAN, grow_copies, split_coefficients

ABILITIES = EQUAL_IN_SPAN
expand = copied_evenly
grow = grow_copies  # the paper's split is the equal one
grow_coefficients = split_coefficients
