"""What has been published about how to grow, and what was measured with growtool (docs/experiments.md), with limits."""

from __future__ import annotations

import math

# EfficientNet's compound scaling multiplies depth by 1.2 and width by 1.1 for each step of arithmetic.
_DEEPER, _WIDER = 1.2, 1.1
DEPTH_SHARE = math.log(_DEEPER) / (math.log(_DEEPER) + 2 * math.log(_WIDER))

GUIDELINES = {
    "width": (
        "Wider models are exact at once, but new channels have to be made to differ; in the G_stack study (arXiv "
        "2405.15319; language models of 1.1B parameters, from scratch) no width operator saved training compute, while "
        "stacking depth saved half. bert2BERT (arXiv 2110.07143) and LEMON (arXiv 2310.07999) report savings with both."
        " Measured here, small networks of images doubled and trained for one or two epochs: operators that keep the "
        "function end within half a point of each other, mixture first; and while the small network still learns, "
        "training it on is worth more than growing it."
    ),
    "depth": (
        "A converged checkpoint is best grown by blocks that start as the identity or are interpolated (AquilaMoE, "
        "arXiv 2408.06567); G_stack (arXiv 2405.15319) stacks early in training from scratch, to about 4 times the "
        "depth. Both were measured on language models, not on images. Measured here, small networks of images trained "
        "for one or two epochs: blocks that start as the identity end as high as stacked ones, or higher."
    ),
    "both": (
        "The budget is shared between depth and width as EfficientNet's compound scaling shares it (arXiv 1905.11946: "
        "1.2 deeper for 1.1 wider), without its higher resolution; it was fitted to EfficientNet-B0 from scratch."
    ),
}
