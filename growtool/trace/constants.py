"""Tensors that are neither parameters nor activations: along which of their axes they may grow."""

from __future__ import annotations

from torch import Tensor

from growtool.trace.axes import Axis, new_axis


def constant_axes(tensor: Tensor) -> tuple[Axis, ...]:
    """Axes of a tensor that is neither parameter nor activation: free where its values do not vary, else fixed."""
    return tuple(
        new_axis(n, None if uniform else "constant values that differ along it")
        for n, uniform in zip(tensor.shape, _uniform(tensor), strict=True)
    )


def _uniform(tensor: Tensor) -> list[bool]:
    if tensor.is_meta or tensor.numel() == 0:
        return [n == 1 for n in tensor.shape]
    return [n == 1 or bool((tensor == tensor.narrow(i, 0, 1)).all()) for i, n in enumerate(tensor.shape)]
