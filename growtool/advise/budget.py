"""A budget: how much larger than its source a grown model may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from growtool.errors import PlanError

AXES = ("width", "depth", "both")
"""What a proposal grows."""
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)x-(macs|params)")


@dataclass(frozen=True, slots=True)
class SizeBudget:
    """At most `factor` times the source's multiply-accumulates per image, or its parameters."""

    factor: float
    unit: Literal["macs", "params"]


def parse_budget(text: str) -> SizeBudget:
    """`2x-macs` or `1.5x-params`.

    Raises:
        PlanError: it is not of that form, or leaves nothing to grow.
    """
    match = _BUDGET.fullmatch(text)
    if match is None:
        raise PlanError(
            f"--budget: found {text!r}, expected a factor of the source's size, e.g. 2x-macs or 1.5x-params"
        )
    factor = float(match[1])
    if factor <= 1:
        raise PlanError(f"--budget: found {text!r}, expected more than 1x; growth never shrinks")
    return SizeBudget(factor, "macs" if match[2] == "macs" else "params")
