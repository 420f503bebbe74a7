"""The proof: two checkpoints run on the same inputs, and how far their outputs are apart."""

from growtool.verify.images import ChangedDecision, ImageComparison, compare_images
from growtool.verify.logits import Comparison, Outputs, compare
from growtool.verify.pair import common_inputs, require_comparable
from growtool.verify.stream import CPU, StreamedModel, random_inputs
from growtool.verify.tolerance import TOLERANCES, default_tolerance

__all__ = [
    "CPU",
    "TOLERANCES",
    "ChangedDecision",
    "Comparison",
    "ImageComparison",
    "Outputs",
    "StreamedModel",
    "common_inputs",
    "compare",
    "compare_images",
    "default_tolerance",
    "random_inputs",
    "require_comparable",
]
