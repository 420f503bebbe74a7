"""What growth learns from images: the images themselves, and what is gathered from them."""

from growtool.calibration.images import Calibration, open_images

__all__ = ["Calibration", "open_images"]
