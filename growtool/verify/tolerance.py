"""The tolerance for logits of equal functions: as far as rounding in the coarsest type involved may move them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from growtool.checkpoint import dtype_name

if TYPE_CHECKING:
    import torch

    from growtool.checkpoint import Checkpoint

TOLERANCES = {"F64": 1e-10, "F32": 1e-5, "F16": 5e-3, "BF16": 5e-2}
"""Element type by safetensors' name, of stored weights or of the arithmetic -> the largest relative difference."""


def default_tolerance(source: Checkpoint, target: Checkpoint, dtype: torch.dtype) -> float:
    """Return the tolerance of the coarsest type among those that both files store and that of the arithmetic."""
    stored = {info.dtype for checkpoint in (source, target) for info in checkpoint.tensors.values()}
    return max(TOLERANCES.get(name, 0.0) for name in stored | {dtype_name(dtype)})
