"""Copies of tensors on the CPU: made in memory that is used again, without a wait for the device at each of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Copies:
    """The memory of one snapshot after the other; pinned for a CUDA device, which need not be waited for.

    A copy holds until the next one under its key. The device has to be waited for before copies are read.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, key: str, tensor: Tensor) -> Tensor:
        """The values of a tensor as they will be when the device has come here."""
        held = self._held.get(key)
        if held is None or (held.shape, held.dtype) != (tensor.shape, tensor.dtype):
            held = self._held[key] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return held.copy_(tensor.detach(), non_blocking=True)


class Finite:
    """Which tensors hold nan or inf, found on their device: by the least and the greatest value of each."""

    def __init__(self) -> None:
        self._extremes: dict[str, Tensor] = {}

    def look(self, name: str, tensor: Tensor) -> None:
        """Take a tensor into account."""
        if tensor.is_floating_point() and tensor.numel():
            self._extremes[name] = torch.stack(torch.aminmax(tensor.detach()))

    def others(self) -> Iterable[str]:
        """The names of those that are not finite; the only wait for the device, by which all before it is done, too."""
        if not self._extremes:
            return []
        finite = torch.isfinite(torch.cat([*self._extremes.values()]).view(-1, 2)).all(1).tolist()
        return [name for name, fine in zip(self._extremes, finite, strict=True) if not fine]
