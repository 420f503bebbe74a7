"""What models are called with, and how messages speak of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Sizes = Mapping[str, tuple[int, ...]]
"""The size of each tensor by name, without the batch."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model is called with: tensors by name, the batch along the first dimension of each."""

    tensors: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """How many inputs the batch holds."""
        return len(next(iter(self.tensors.values())))

    @property
    def sizes(self) -> Sizes:
        """The size of each tensor without the batch."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Inputs:
        """The same, numbers with fractions in another type, everything on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return Inputs({name: moved(tensor) for name, tensor in self.tensors.items()})

    def scaled(self, factor: float) -> Inputs:
        """The same with numbers times a factor; what is no fraction, as a token, stays."""
        return Inputs({n: x * factor if x.is_floating_point() else x for n, x in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class Words:
    """How messages speak of a library's inputs.

    Attributes:
        one, many: what an input is called.
        axes: what the dimensions of the one tensor are, where there is one.
        refit: what to do where a model does not run on its inputs.
        keep: which arguments of a target keep the source's inputs.
        alike: what to do about two checkpoints of different inputs.
        classes: the argument that tells the number of classes, where there is one.
    """

    one: str = "input"
    many: str = "inputs"
    axes: str = ""
    refit: str = "check the arguments that say what the model takes"
    keep: str = "leave the arguments that say what the model takes as they are"
    alike: str = "name two checkpoints of models that take the same inputs"
    classes: str = ""

    def sized(self, sizes: Sizes) -> str:
        """Inputs by their sizes: `images of (3, 32, 32)`, `inputs of ids (12), mask (12, 12)`."""
        return f"{self.many} of {size_text(sizes)}"

    @property
    def the_input(self) -> str:
        """What a model receives: `the input image`."""
        return "the input" if self.one == "input" else f"the input {self.one}"

    @property
    def in_axes(self) -> str:
        """What the numbers of a size are, in brackets."""
        return f" ({self.axes})" if self.axes else ""


def only_size(sizes: Sizes) -> tuple[int, ...] | Sizes:
    """The size of the one tensor; of several each, by name."""
    return next(iter(sizes.values())) if len(sizes) == 1 else sizes


def size_text(sizes: Sizes) -> str:
    """The size of the one tensor, `(3, 32, 32)`; of several each after its name."""
    if len(sizes) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{name} ({', '.join(map(str, size))})" for name, size in sizes.items())
