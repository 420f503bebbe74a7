"""Rewrites of the source's tensors before they grow: the same function, in a form that can be grown.

Writers are centred and scales folded into them (`prove.blanks.writers`), gains of norms over blanks are rescaled
(`prove.blanks.norms`), and rows are multiplied by factors (`prove.scales.scaling`). Every other tensor is read as it
stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from growtool.algebra.places import along


@dataclass(frozen=True, slots=True)
class RescaledNorm:
    """A norm over old channels and blanks: its mean square falls by `s`, so its gain becomes gain * sqrt(s).

    Attributes:
        module: its path.
        gains: names of its gain.
        offset: number that the model adds to the gain before it uses it, as in `1 + w`.
        s: number of positions that are copies over all positions, below 1.
        eps: the eps of the target's norm; it would have to be the source's times s.
    """

    module: str
    gains: tuple[str, ...]
    offset: float
    s: float
    eps: float


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The changes of one source tensor, in this order.

    Attributes:
        scale: name of a vector to multiply the channels by, divided by its root mean square; None: none.
        level: whether the tensor is such a vector: then it becomes its root mean square throughout.
        centre: whether the mean over the channels is taken off.
        dim: the dimension of the channels, for `scale` and `centre`.
        factor: what the whole tensor is multiplied by.
        rows: float64 [rows], what each row is multiplied by; None: nothing.
        offset: number that the model adds to the tensor before it uses it, as in a gain `1 + w`: the sum is multiplied.
    """

    scale: str | None = None
    level: bool = False
    centre: bool = False
    dim: int = 0
    factor: float = 1.0
    rows: Tensor | None = None
    offset: float = 0.0

    @property
    def only_scales(self) -> bool:
        """Whether nothing but the factor changes the tensor."""
        return replace(self, factor=1.0) == Rewrite()

    def apply(self, W: Tensor, read: Callable[[str], Tensor]) -> Tensor:
        """Return the rewritten tensor, of the same shape.

        Args:
            W: the source tensor.
            read: gives a source tensor by name, in the type of W.
        """
        if self.scale is not None:  # diag(gamma / |gamma|) W, so that the level |gamma| stays where the scale was
            gamma = read(self.scale)
            W = W * along(gamma / _size(gamma), self.dim, W.ndim)
        if self.level:
            W = torch.full_like(W, float(_size(W)))
        if self.centre:
            W = W - W.mean(self.dim, keepdim=True)
        return self.scaled(W + self.offset) - self.offset if self.offset else self.scaled(W)

    def scaled(self, W: Tensor, power: int = 1) -> Tensor:
        """Return the tensor times `factor` and times `rows`, each to a power."""
        if self.factor != 1.0:
            W = W * self.factor**power
        if self.rows is not None:
            W = W * along((self.rows**power).to(W.dtype), 0, W.ndim)
        return W


def scaled_by(rows: Tensor, offset: float = 0.0) -> Rewrite:
    """Return the rewrite that multiplies rows, the offset added, by these factors (float64 [rows])."""
    first = float(rows[0])
    equal = bool((rows == first).all())
    return Rewrite(factor=first, offset=offset) if equal else Rewrite(rows=rows, offset=offset)


def _size(vector: Tensor) -> Tensor:
    """Return the root mean square of a vector; 1 for a vector of zeros, so that it can be divided by."""
    size = vector.square().mean().sqrt()
    return size if size > 0 else torch.ones_like(size)
