"""Results of operations on the meta device, made from shapes alone where torch goes through Python references.

A batch norm takes torch some 3 ms there, which is most of a pass through a convolutional network. Each function returns
`NotImplemented` for operands that it does not know the result of. Operands that do not fit each other are among them:
torch then raises its own error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def of_batch_norm(x_NC: Tensor, *affine: Any) -> Any:
    """Return the result of a batch norm, with mean and inverse deviation of each channel."""
    channels = x_NC.shape[1]
    if any(len(vector) != channels for vector in affine[:4] if vector is not None):
        return NotImplemented
    return torch.empty_like(x_NC), _statistics(x_NC, channels), _statistics(x_NC, channels)


def of_layer_norm(x: Tensor, normalised: list[int], *_: Any) -> Any:
    """Return the result of a layer norm, with mean and inverse deviation of each position."""
    first = x.ndim - len(normalised)
    if list(x.shape[first:]) != list(normalised):
        return NotImplemented
    shape = (*x.shape[:first], *(1 for _ in normalised))
    return x.new_empty(x.shape), _statistics(x, *shape), _statistics(x, *shape)


def of_function(x: Tensor, *_: Any) -> Tensor:
    """Return the result of a function of each value."""
    return torch.empty_like(x)


def of_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the result of a softmax; it is contiguous, whatever the operand is."""
    return x.new_empty(x.shape, dtype=dtype)


def of_added_product(bias: Tensor, a_NI: Tensor, b_IO: Tensor) -> Any:
    """Return the result of a matrix product with a vector added."""
    if a_NI.ndim != 2 or b_IO.ndim != 2 or a_NI.shape[1] != b_IO.shape[0] or bias.shape != b_IO.shape[1:]:
        return NotImplemented
    return a_NI.new_empty((a_NI.shape[0], b_IO.shape[1]))


def of_two(x: Tensor, y: Any, *_: Any) -> Any:
    """Return the result of a sum or product: of two tensors that are alike, or of a tensor and a number.

    Operands that need broadcasting or another type are left to torch.
    """
    if isinstance(y, Tensor):
        alike = (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride()) and y.is_meta
    else:
        alike = x.is_floating_point() and isinstance(y, int | float)
    return torch.empty_like(x) if alike else NotImplemented


def _statistics(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))
