"""Multiply-accumulates (MACs) of one input, from a trace or from a pass that is run to count them.

How many an operation takes is in its row of `growtool.trace.table.ops`. FLOPs are 2 x MACs.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, build, library_of, meta_inputs
from growtool.trace import Trace
from growtool.trace.reading.counting import counted, of_pass

COUNTED = "convolutions, matrix products and attention; norms, activations and element-wise operations are not counted"


@dataclass(frozen=True, slots=True)
class Macs:
    """MACs of one input.

    Attributes:
        total: MACs of the whole model.
        by_module: path of a module -> its MACs, everything inside included; modules without any are absent.
        by_operation: name of an operation in aten -> MACs, largest first.
    """

    total: int
    by_module: Mapping[str, int]
    by_operation: Mapping[str, int]

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x MACs."""
        return 2 * self.total


def training_macs(macs: int, inputs: int) -> int:
    """Return the MACs of training on `inputs` inputs with a model that takes `macs` MACs for one.

    The backward pass takes as much as two forward passes: one for the gradients of the activations, one for those of
    the weights (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    """
    return 3 * macs * inputs


def count_macs(spec: ModelSpec, model: nn.Module, *, spent: bool = False) -> Macs:
    """Count the MACs of one input by a pass on the meta device, which has no weights and no arithmetic.

    Args:
        spec: the model's spec; its library makes the input.
        model: the model of the spec, in eval mode.
        spent: whether the model may be changed, so that it is of no use afterwards. Else a copy is counted, and to copy
            takes as long as to count.

    Raises:
        CheckpointError: the model does not run on its inputs, since its arguments do not fit each other.
    """
    library, inputs = library_of(spec), meta_inputs(spec, model, 1)
    try:
        return _macs(counted(model if spent else copy.deepcopy(model), inputs, library.run))
    except Exception as error:  # a model's own code: anything may go wrong in it when layers do not fit together
        raise CheckpointError(
            f"{type(model).__name__}: does not run on {library.words.sized(inputs.sizes)}{library.words.in_axes}: "
            f"{type(error).__name__}: {error}; expected arguments that fit each other, correct its model_args"
        ) from error


def traced_macs(trace: Trace) -> Macs:
    """Return the MACs of one input of a traced pass."""
    return _macs(of_pass(trace.forward))


def _macs(counts: Iterable[tuple[str, str, Fraction]]) -> Macs:
    """Sum operations up; each is the path of its module, its name and its MACs."""
    by_module, by_operation = defaultdict[str, Fraction](Fraction), defaultdict[str, Fraction](Fraction)
    for module, name, count in counts:
        by_operation[name] += count
        parts = module.split(".") if module else []
        for end in range(1, len(parts) + 1):
            by_module[".".join(parts[:end])] += count
    largest_first = sorted(by_operation.items(), key=lambda item: -item[1])
    return Macs(
        total=int(sum(by_operation.values())),
        by_module={path: int(count) for path, count in by_module.items() if count},
        by_operation={name: int(count) for name, count in largest_first if count},
    )


def macs_of(spec: ModelSpec, *, where: str) -> int:
    """Build the model of a spec without weights, and return the MACs of one input; messages say it is from `where`.

    Raises:
        CheckpointError: the model cannot be built, or does not run on its inputs.
    """
    return count_macs(spec, build(spec, where=where), spent=True).total
