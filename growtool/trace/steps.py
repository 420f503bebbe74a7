"""The forward pass as data: every operation of the trace in order, with the tensors that it read and wrote.

Tensors are numbered, and have the axes of the trace. Which channels are one group is known only when the trace is over;
what they go through can be asked of the steps then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from growtool.trace.axes import Axis, ChannelGroup, groups_on, resolve
from growtool.trace.call import Call
from growtool.trace.module_calls import ModuleCall
from growtool.trace.table.kinds import Kind, Operation


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of the pass, named by its number."""

    number: int


@dataclass(frozen=True)
class Step(Operation):
    """One operation of a pass, with a `Ref` in place of each tensor among its arguments.

    Attributes:
        outs: numbers of the results.
        module: path of the module that it ran in.
        overwritten: numbers of the other tensors in the memory that it wrote to in place.
        entry: its index in the signature of its module; None if it has no entry there.
        repeats: for an operation of a recurrent layer, the number of operations that it stands for.
    """

    outs: tuple[int, ...]
    module: str
    overwritten: tuple[int, ...]
    entry: int | None = None
    repeats: Fraction | None = None

    @cached_property
    def ins(self) -> tuple[int, ...]:
        """Numbers of the tensors that it read, in order, with repeats."""
        return tuple(leaf.number for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Ref))


def is_finite_at_zero(operation: Operation) -> bool:
    """Return whether a pointwise operation of one tensor gives a finite result at zero; found by running it."""
    zeros = torch.zeros(1)
    arguments = operation.args, dict(operation.kwargs)
    args, kwargs = tree_map(lambda leaf: zeros if isinstance(leaf, Tensor | Ref) else leaf, arguments)
    return bool(getattr(torch.ops.aten, operation.name)(*args, **kwargs).isfinite().all())


@dataclass(frozen=True)
class ForwardPass:
    """A traced forward pass, operation by operation.

    Attributes:
        steps: the operations in order, with every RMSNorm and SimpleNorm as one step.
        raw: the operations in order, as they ran.
        calls: the runs of modules, as ranges of raw steps, in the order in which they ended.
        layouts: number of a tensor -> its axes, unresolved; see `axes`.
        made_of: number of a tensor -> parameters and buffers, for tensors made of nothing else (constants: of none).
        stored: number of a parameter or buffer -> its names.
        inputs: numbers of the tensors that the model was given, in order.
        outputs: numbers of the tensors that the model returned, in order.
    """

    steps: tuple[Step, ...]
    raw: tuple[Step, ...]
    calls: tuple[ModuleCall, ...]
    layouts: Mapping[int, tuple[Axis, ...]]
    made_of: Mapping[int, frozenset[str]]
    stored: Mapping[int, tuple[str, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def axes(self, number: int) -> tuple[Axis, ...]:
        """Return the axes of a tensor, resolved."""
        return tuple(map(resolve, self.layouts[number]))

    def carrying(self, group: ChannelGroup) -> frozenset[int]:
        """Return the numbers of the tensors that have the channels of a group on some axis."""
        return frozenset(n for n, axes in self.layouts.items() if any(group in groups_on(axis) for axis in axes))

    def has_constants(self, number: int) -> bool:
        """Return whether a tensor made of parameters holds constants, or has had some added to it, as in `1 + w`.

        Zeros in the parameters need not be zeros in such a tensor. A constant factor is no constant in this sense.
        """
        if number in self.stored:
            return False
        step = self.made_by.get(number)
        if step is None:
            return True
        # an operation in place may leave constants that the tensor held before
        if number in step.ins or step.op.kind in (Kind.CREATE, Kind.FILL, Kind.DRAW):
            return True
        if step.op.kind is Kind.LOOKUP:
            return self.has_constants(step.ins[0])
        operands = list(map(self.has_constants, step.ins))
        return all(operands) if step.op.kind is Kind.MULTIPLY else any(operands)

    @cached_property
    def uses(self) -> tuple[tuple[Step, int], ...]:
        """Each operation that reads an activation, paired with each of its operands that is made of parameters."""
        uses: list[tuple[Step, int]] = []
        for step in self.steps:
            of_parameters = [number for number in step.ins if number in self.made_of]
            if len(of_parameters) < len(step.ins):
                uses += ((step, number) for number in of_parameters)
        return tuple(uses)

    @cached_property
    def use_counts(self) -> Counter[str]:
        """Name of a parameter or buffer -> the number of `uses` with an operand that is made of it."""
        return Counter(name for _, number in self.uses for name in self.made_of[number])

    @cached_property
    def read(self) -> frozenset[str]:
        """Names of the parameters and buffers that an operation reads or the model returns."""
        numbers = {number for step in self.raw for number in step.ins} | {*self.outputs}
        return frozenset(name for number in numbers for name in self.stored.get(number, ()))

    @cached_property
    def touches(self) -> Counter[int]:
        """Number of a tensor -> the number of steps that read it or write to its memory."""
        return Counter(number for step in self.steps for number in {*step.ins, *step.overwritten})

    @cached_property
    def made_by(self) -> Mapping[int, Step]:
        """Number of a tensor -> the last step that has it as a result."""
        return {number: step for step in self.steps for number in step.outs}


def _numbered(argument: Any) -> Any:
    """Return an argument with a `Ref` in place of each tensor."""
    if isinstance(argument, Tensor):
        return Ref(id(argument))
    if isinstance(argument, list | tuple):
        return type(argument)(map(_numbered, argument))
    return argument


def step_of(call: Call, others: Iterable[Tensor], module: str, entry: int | None, repeats: Fraction | None) -> Step:
    """Return an operation as a step.

    The number of a tensor is its `id`. It is unique because the tape keeps every tensor of the pass alive.

    Args:
        call: the operation.
        others: other tensors in the memory that it wrote to in place.
        module, entry, repeats: as in `Step`.
    """
    outs = tuple(map(id, call.outs))
    return Step(
        name=call.name,
        op=call.op,
        func=call.func,
        args=_numbered(call.args),
        kwargs={name: _numbered(value) for name, value in call.kwargs.items()},
        outs=outs,
        module=module,
        overwritten=tuple({id(other) for other in others} - set(outs)),
        entry=entry,
        repeats=repeats,
    )
