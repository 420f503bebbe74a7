"""Layers that pass on what they receive: identity kernels, and norms that undo themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def identity_value(name: str, shape: tuple[int, ...], eps: float | None) -> Tensor:
    """Return the value of a parameter or buffer of a layer that passes its input on.

    A convolution or linear layer has a one in the middle of the kernel where a row reads its own channel; its bias is
    zero. A BatchNorm in evaluation divides by sqrt(running_var + eps), which a running variance of 1 and a weight of
    sqrt(1 + eps) undo. Any other vector scales channels, and is one.

    Args:
        name: ends in the name of the tensor within its layer.
        shape: [O, I, *kernel] with I = O, or I = 1 for one channel per group (depthwise), kernels odd; else [channels].
        eps: of the norm, None for any other layer.

    Returns:
        float64 of `shape`; for a norm's counter of batches int64 [].
    """
    own = name.rpartition(".")[2]
    if own == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if len(shape) >= 2:
        rows, columns, *kernel = shape
        weight = torch.empty(rows, columns, math.prod(kernel), dtype=torch.float64)
        return nn.init.dirac_(weight, groups=1 if columns == rows else rows).reshape(shape)
    value = {"weight": math.sqrt(1 + (eps or 0.0)), "bias": 0.0, "running_mean": 0.0}.get(own, 1.0)
    return torch.full(shape, value, dtype=torch.float64)
