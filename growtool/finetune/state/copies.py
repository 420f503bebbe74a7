"""Copies of a model's tensors for a snapshot, and the check that they are finite.

Neither waits for the device at each tensor: copies go into pinned memory without blocking, and all tensors are checked
together in the end.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Copies:
    """CPU memory for the copies of a snapshot, reused by the next one; pinned for tensors of a CUDA device.

    A copy is valid until the next one under the same key. Synchronise with the device before you read copies.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, key: str, tensor: Tensor) -> Tensor:
        """Start to copy a tensor into the memory of `key`; return the copy."""
        held = self._held.get(key)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = self._held[key] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return held.copy_(tensor.detach(), non_blocking=True)


class Finite:
    """A check for tensors with NaN or inf, which are found on their device by each tensor's minimum and maximum."""

    def __init__(self) -> None:
        self._extremes: dict[str, Tensor] = {}

    def look(self, name: str, tensor: Tensor) -> None:
        """Add a tensor to the check."""
        # NaN propagates through aminmax, so that two numbers tell of each tensor whether all of it is finite.
        if tensor.is_floating_point() and tensor.numel():
            self._extremes[name] = torch.stack(torch.aminmax(tensor.detach()))

    def failed(self) -> list[str]:
        """Return the names of the tensors that are not finite.

        This synchronises with the device, so that earlier copies of its tensors are complete as well.
        """
        if not self._extremes:
            return []
        finite = torch.isfinite(torch.cat([*self._extremes.values()]).view(-1, 2)).all(1).tolist()
        return [name for name, is_finite in zip(self._extremes, finite, strict=True) if not is_finite]
