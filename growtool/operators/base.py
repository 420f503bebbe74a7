"""What a width operator is given, and how it draws random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.algebra.expansion import AxisMap
from growtool.algebra.layers import complete, split_evenly, summed_dim


@dataclass(frozen=True, slots=True)
class Layer:
    """One tensor to grow.

    Attributes:
        name: the target tensor's name.
        maps: how each dimension grows.
        templates: source names of the same-shape layers of the stage, the layer itself included (the raw bank).
        own: position of the layer itself among the templates.
        seed: the plan's seed.
    """

    name: str
    maps: tuple[AxisMap, ...]
    templates: tuple[str, ...]
    own: int
    seed: int

    def generator(self) -> torch.Generator:
        """Random numbers that depend on the seed and the tensor's name alone, not on the order of work."""
        return generator_for(self.seed, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The target shape."""
        return tuple(len(axis.index) for axis in self.maps)


Read = Callable[[str], Tensor]


def generator_for(seed: int, name: str) -> torch.Generator:
    """A generator seeded by the plan's seed and a name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def split_among_copies(W: Tensor, layer: Layer, gain: float | None) -> Tensor:
    """Share W among the copies of each channel it reads: equally, or with noise that cancels over the copies.

    Args:
        W: the source tensor.
        layer: where it goes.
        gain: standard deviation of the noise relative to that of W; None for the equal split.
    """
    if gain is None or summed_dim(layer.maps) is None:
        return split_evenly(W, layer.maps)
    noise = torch.randn(layer.shape, generator=layer.generator(), dtype=W.dtype)
    return complete(noise.mul_(gain * float(W.std(correction=0))), W, layer.maps)
