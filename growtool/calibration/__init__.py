"""Images that growth learns from, and the running statistics of BatchNorm that are estimated from them."""

from growtool.calibration.alone import require_several_values
from growtool.calibration.images import Calibration, open_images
from growtool.calibration.recalibrate import recalibrate, running_statistics, tracking_norms

__all__ = [
    "Calibration",
    "open_images",
    "recalibrate",
    "require_several_values",
    "running_statistics",
    "tracking_norms",
]
