"""Image models of timm; outside this folder only training and images import it."""

from growtool.library.timm.config import with_classes
from growtool.library.timm.library import Timm, input_size

__all__ = ["Timm", "input_size", "with_classes"]
