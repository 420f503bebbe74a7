"""`lemon`: average expansion (LEMON, arXiv 2310.07999, section 4).

The residual stream is copied as often as it fits; the remaining channels hold the mean of the old ones, which a
LayerNorm turns into zeros. An RMSNorm does not take the mean off: there the remaining channels hold zeros. Hidden units
and heads are copied in turn.
"""

from __future__ import annotations

from growtool.operators.base import Abilities
from growtool.operators.width.centre_zero import expand, grow

ABILITIES = Abilities(blanks=("mean", "silent"))

__all__ = ["ABILITIES", "expand", "grow"]
