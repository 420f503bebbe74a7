"""What growth learns from images: the images themselves, and what is gathered from them."""

from growtool.calibration.alone import require_several_values
from growtool.calibration.images import Calibration, open_images
from growtool.calibration.recalibrate import recalibrate, tracking_norms

__all__ = ["Calibration", "open_images", "recalibrate", "require_several_values", "tracking_norms"]
