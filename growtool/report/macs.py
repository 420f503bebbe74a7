"""Multiply-accumulates of one forward pass, counted on shapes alone.

What is counted: convolutions, matrix products and attention, one MAC for each multiplication with its addition. What is
not: norms, activations, pooling, softmax and anything element-wise (one to six per cent of a model's arithmetic).
FLOPs are 2 x MACs.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import ModelSpec

COUNTED = "convolutions, matrix products and attention; norms, activations and element-wise operations are not counted"


@dataclass(frozen=True, slots=True)
class Macs:
    """MACs of one image.

    Attributes:
        total: of the whole model.
        by_module: of each module by its name in the model, everything inside included; modules without any are absent.
        by_operation: of each kind of operation, by its name in aten.
    """

    total: int
    by_module: Mapping[str, int]
    by_operation: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x MACs."""
        return 2 * self.total


def training_macs(macs: int, images: int) -> int:
    """MACs of training on `images` images with a model of `macs` MACs per image.

    Each image passes forward once, and backward twice: for the gradients of the activations and of the weights (Kaplan
    et al. 2020, arXiv 2001.08361, section 2.1).
    """
    return 3 * macs * images


def count_macs(model: nn.Module, input_size: tuple[int, int, int], *, spent: bool = False) -> Macs:
    """Count on the meta device: no weights, no arithmetic.

    Args:
        model: any model in eval mode; it is left as it is, unless it is spent.
        input_size: channels, height and width of the one image.
        spent: whether the model is of no use afterwards; then no copy is made, which takes as long as the count.

    Raises:
        CheckpointError: the model does not run on such images, since its arguments do not fit each other.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    from growtool.coupling.shapes import SHAPED, ByShape

    skeleton = (model if spent else copy.deepcopy(model)).to("meta").requires_grad_(False)
    uncounted = {getattr(torch.ops.aten, name) for name in SHAPED} - flop_registry.keys()
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(uncounted, _nothing))
    with warnings.catch_warnings(), torch.no_grad(), ByShape(), counter:
        warnings.simplefilter("ignore")
        try:
            skeleton(torch.empty(1, *input_size, device="meta"))
        except Exception as error:  # whatever a forward pass trips over when its layers do not fit together
            raise CheckpointError(
                f"{type(model).__name__}: does not run on images of {input_size} (channels, height, width): "
                f"{type(error).__name__}: {error}; expected arguments that fit each other, correct its model_args"
            ) from error
    counts = {name: sum(operations.values()) // 2 for name, operations in counter.get_flop_counts().items()}
    root = type(model).__name__ + "."
    return Macs(
        total=counter.get_total_flops() // 2,
        by_module={name.removeprefix(root): n for name, n in counts.items() if name.startswith(root) and n},
        by_operation={
            str(operation).removeprefix("aten."): flops // 2
            for operation, flops in sorted(counter.get_flop_counts()["Global"].items(), key=lambda item: -item[1])
            if flops
        },
    )


def macs_of(spec: ModelSpec, *, where: str) -> int:
    """MACs of one image through the model of `spec`.

    Raises:
        CheckpointError: timm cannot build it.
    """
    from growtool.checkpoint import build, input_size

    model = build(spec, where=where)
    return count_macs(model, input_size(model), spent=True).total


def _nothing(*_: object, **__: object) -> int:
    """What is not counted costs; named, so that torch does not look for multiplications inside."""
    return 0
