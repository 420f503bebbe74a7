"""How a budget is shared, and what was measured with growtool of each way of growing (docs/experiments.md)."""

from __future__ import annotations

import math

# EfficientNet's compound scaling multiplies depth by 1.2 and width by 1.1 for each step of arithmetic.
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
