"""The proof: two checkpoints run on the same inputs, and how far their logits are apart."""

from growtool.verify.logits import Comparison, compare, random_inputs
from growtool.verify.pair import require_comparable
from growtool.verify.stream import StreamedModel

__all__ = ["Comparison", "StreamedModel", "compare", "random_inputs", "require_comparable"]
