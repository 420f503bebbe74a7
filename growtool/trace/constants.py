"""The axes of constants, tensors that are neither parameters nor activations."""

from __future__ import annotations

from torch import Tensor

from growtool.trace.axes import VARYING, Axis, new_axis


def constant_axes(tensor: Tensor) -> tuple[Axis, ...]:
    """Return axes that are fixed where the values of a constant vary along them, and free to grow elsewhere."""
    return tuple(
        new_axis(n, None if uniform else VARYING)
        for n, uniform in zip(tensor.shape, _is_uniform_along(tensor), strict=True)
    )


def _is_uniform_along(tensor: Tensor) -> list[bool]:
    """Return for each dimension whether the values are the same at all of its positions."""
    if tensor.is_meta or tensor.numel() == 0:  # no values to compare
        return [n == 1 for n in tensor.shape]
    return [n == 1 or bool((tensor == tensor.narrow(i, 0, 1)).all()) for i, n in enumerate(tensor.shape)]
