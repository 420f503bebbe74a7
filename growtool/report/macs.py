"""Multiply-accumulates of one input: of a traced pass, or of one that is run for them alone.

What counts, and how much, `trace.table.ops` says operation by operation. FLOPs are 2 x MACs.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import ModelSpec
    from growtool.trace import Trace

COUNTED = "convolutions, matrix products and attention; norms, activations and element-wise operations are not counted"


@dataclass(frozen=True, slots=True)
class Macs:
    """MACs of one input.

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


def training_macs(macs: int, inputs: int) -> int:
    """MACs of training on `inputs` inputs with a model of `macs` MACs for each.

    Each passes forward once, and backward twice: for the gradients of the activations and of the weights (Kaplan
    et al. 2020, arXiv 2001.08361, section 2.1).
    """
    return 3 * macs * inputs


def count_macs(spec: ModelSpec, model: nn.Module, *, spent: bool = False) -> Macs:
    """Count on the meta device: no weights, no arithmetic.

    Args:
        spec: tells the library, which makes the input.
        model: of the spec, in eval mode; it is left as it is, unless it is spent.
        spent: whether the model is of no use afterwards; then no copy is made, which takes as long as the count.

    Raises:
        CheckpointError: the model does not run on its inputs, since its arguments do not fit each other.
    """
    from growtool.library import library_of, meta_inputs
    from growtool.trace.reading.counting import counted

    library, inputs = library_of(spec), meta_inputs(spec, model, 1)
    try:
        return _macs(counted(model if spent else copy.deepcopy(model), inputs, library.run))
    except Exception as error:  # whatever a forward pass trips over when its layers do not fit together
        raise CheckpointError(
            f"{type(model).__name__}: does not run on {library.words.sized(inputs.sizes)}{library.words.in_axes}: "
            f"{type(error).__name__}: {error}; expected arguments that fit each other, correct its model_args"
        ) from error


def traced_macs(trace: Trace) -> Macs:
    """What a trace shows of one of its inputs."""
    from growtool.trace.reading.counting import of_pass

    return _macs(of_pass(trace.forward))


def _macs(counts: Iterable[tuple[str, str, Fraction]]) -> Macs:
    """Sum up the operations, each with the path of its module, its name and its MACs."""
    by_module, by_operation = defaultdict[str, Fraction](Fraction), defaultdict[str, Fraction](Fraction)
    for module, name, count in counts:
        by_operation[name] += count
        parts = module.split(".") if module else []
        for end in range(1, len(parts) + 1):
            by_module[".".join(parts[:end])] += count
    return Macs(
        total=int(sum(by_operation.values())),
        by_module={path: int(count) for path, count in by_module.items() if count},
        by_operation={
            name: int(count) for name, count in sorted(by_operation.items(), key=lambda item: -item[1]) if count
        },
    )


def macs_of(spec: ModelSpec, *, where: str) -> int:
    """MACs of one input through the model of `spec`.

    Raises:
        CheckpointError: it cannot be built.
    """
    from growtool.library import build

    return count_macs(spec, build(spec, where=where), spent=True).total
