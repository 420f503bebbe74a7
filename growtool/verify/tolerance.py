"""How far the logits of equal functions may be apart: what rounding of the coarsest type involved can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from growtool.checkpoint import dtype_name

if TYPE_CHECKING:
    import torch

    from growtool.checkpoint import Checkpoint

TOLERANCES = {"F64": 1e-10, "F32": 1e-5, "F16": 5e-3, "BF16": 5e-2}
"""Relative differences by element type, safetensors' names; weights were rounded to it, or arithmetic is done in it."""


def default_tolerance(source: Checkpoint, target: Checkpoint, dtype: torch.dtype) -> float:
    """The tolerance of the coarsest among the types both files store and the type of the arithmetic."""
    stored = {info.dtype for checkpoint in (source, target) for info in checkpoint.tensors.values()}
    return max(TOLERANCES.get(name, 0.0) for name in stored | {dtype_name(dtype)})
