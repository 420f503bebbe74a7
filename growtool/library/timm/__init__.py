"""timm behind the boundary: nothing else of growtool but training and its images knows timm."""

from growtool.library.timm.config import with_classes
from growtool.library.timm.library import Timm, input_size

__all__ = ["Timm", "input_size", "with_classes"]
