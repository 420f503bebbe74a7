"""A budget for growth: how much larger than its source the model may be, and how width and depth share it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from growtool.errors import PlanError

AXES = ("width", "depth", "both")
"""The axes that a proposal may grow."""
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)x-(macs|params)")

# EfficientNet's compound scaling (arXiv 1905.11946) multiplies depth by 1.2 and width by 1.1 in each step. MACs grow
# with the depth and with the square of the width, so depth takes this share of the budget, in orders of magnitude.
_DEEPER, _WIDER = 1.2, 1.1
DEPTH_SHARE = math.log(_DEEPER) / (math.log(_DEEPER) + 2 * math.log(_WIDER))

GUIDELINES = {
    "width": (
        "Measured on small networks of images, doubled and trained for one or two epochs: operators that keep the "
        "function end within half a point of each other, mixture first. While the small network still learns, "
        "training it on is worth more than growing it."
    ),
    "depth": (
        "Measured on small networks of images, trained for one or two epochs: blocks that start as the identity end as "
        "high as stacked ones, or higher."
    ),
    "both": (
        "The budget is shared between depth and width as EfficientNet's compound scaling shares it (arXiv 1905.11946: "
        "1.2 deeper for 1.1 wider), without its higher resolution."
    ),
}


@dataclass(frozen=True, slots=True)
class SizeBudget:
    """At most `factor` times the source's multiply-accumulates per image, or its parameters."""

    factor: float
    unit: Literal["macs", "params"]


def parse_budget(text: str) -> SizeBudget:
    """Read a budget such as `2x-macs` or `1.5x-params`.

    Raises:
        PlanError: the text has another form, or the factor leaves nothing to grow.
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
