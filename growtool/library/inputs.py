"""The inputs of a model, the words in which messages speak of them, and the tensors among its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Sizes = Mapping[str, tuple[int, ...]]
"""The size of each tensor by name, without the batch."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch of inputs: tensors by name, with the batch along the first dimension of each."""

    tensors: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """Return the number of inputs in the batch."""
        return len(next(iter(self.tensors.values())))

    @property
    def sizes(self) -> Sizes:
        """Return the size of each tensor without the batch."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()}

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Inputs:
        """Return the inputs on another device, and floating-point tensors among them in another type."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return Inputs({name: moved(tensor) for name, tensor in self.tensors.items()})

    def scaled(self, factor: float) -> Inputs:
        """Return the inputs with floating-point tensors times a factor; others, such as tokens, stay."""
        return Inputs({n: x * factor if x.is_floating_point() else x for n, x in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class Words:
    """How messages speak of a library's inputs.

    Attributes:
        one, many: the noun for an input and for several.
        axes: names of the dimensions of an input, if it is one tensor.
        refit: advice about a model that does not run on its inputs.
        keep: advice about a target whose inputs are not the source's.
        alike: advice about two checkpoints with different inputs.
        classes: the argument that sets the number of classes, if there is one.
    """

    one: str = "input"
    many: str = "inputs"
    axes: str = ""
    refit: str = "check the arguments that say what the model takes"
    keep: str = "leave the arguments that say what the model takes as they are"
    alike: str = "name two checkpoints of models that take the same inputs"
    classes: str = ""

    def sized(self, sizes: Sizes) -> str:
        """Return inputs with their sizes: `images of (3, 32, 32)`, `inputs of ids (12), mask (12, 12)`."""
        return f"{self.many} of {size_text(sizes)}"

    @property
    def the_input(self) -> str:
        """Return the input with its article: `the input image`."""
        return "the input" if self.one == "input" else f"the input {self.one}"

    @property
    def in_axes(self) -> str:
        """Return the names of the dimensions in brackets, after a space; empty if there are none."""
        return f" ({self.axes})" if self.axes else ""


def only_size(sizes: Sizes) -> tuple[int, ...] | Sizes:
    """Return the size of the only tensor, or the sizes by name if there are several."""
    return next(iter(sizes.values())) if len(sizes) == 1 else sizes


def size_text(sizes: Sizes) -> str:
    """Return the size of the only tensor as text, `(3, 32, 32)`, or each size after its name if there are several."""
    if len(sizes) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{name} ({', '.join(map(str, size))})" for name, size in sizes.items())


def leaves_of(wrapped: Any) -> tuple[Tensor, ...]:
    """Return every tensor in the arguments or results of a call, however they are nested."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    return tuple(leaf for leaf in tree_leaves(wrapped) if isinstance(leaf, Tensor))
