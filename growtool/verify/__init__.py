"""The proof: two checkpoints run on the same inputs, and how far their outputs are apart."""

from growtool.verify.images import ChangedDecision, ImageComparison, compare_images
from growtool.verify.logits import TOLERANCES, Comparison, compare, compare_each, default_tolerance
from growtool.verify.pair import common_inputs, require_comparable
from growtool.verify.stream import CPU, Outputs, StreamedModel, outputs_of, random_inputs

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
    "compare_each",
    "compare_images",
    "default_tolerance",
    "outputs_of",
    "random_inputs",
    "require_comparable",
]
