"""The forward pass as data: every operation of the trace in order, with what it read and wrote.

Tensors are numbered; their axes are those of the trace. What a set of channels goes through can so be asked after the
trace is over, when it is known which channels they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from growtool.trace.axes import Axis, resolve
from growtool.trace.call import Call
from growtool.trace.module_calls import ModuleCall
from growtool.trace.table.kinds import Kind, Op


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor of the pass, by its number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: aten's, without namespace, overload and trailing underscore.
        module: path of the module it ran in.
        args, kwargs: as given, a `Ref` in place of each tensor.
        outs: numbers of the results.
        overwritten: numbers of other tensors that share the memory of what it wrote in place.
        op: what is known of such operations.
        repeats: for an operation of a recurrent layer, how many it stands for.
        entry: its place among the entries of its module's signature; None for an operation without one.
        func: torch's operation, with the names of its arguments; None for several that were made one.
    """

    name: str
    op: Op
    module: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[int, ...]
    overwritten: tuple[int, ...]
    entry: int | None = None
    repeats: Fraction | None = None
    func: Any = None

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @cached_property
    def ins(self) -> tuple[int, ...]:
        """Numbers of the tensors it read."""
        return tuple(leaf.number for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Ref))


def is_finite_at_zero(operation: Call | Step) -> bool:
    """Whether a function of each value of one tensor has a value at zero."""
    zeros = torch.zeros(1)
    given = operation.args, dict(operation.kwargs)
    args, kwargs = tree_map(lambda leaf: zeros if isinstance(leaf, Tensor | Ref) else leaf, given)
    return bool(getattr(torch.ops.aten, operation.name)(*args, **kwargs).isfinite().all())


@dataclass(frozen=True)
class ForwardPass:
    """A traced forward pass, operation by operation.

    Attributes:
        steps: in order, with every RMSNorm and SimpleNorm as one.
        raw: the same as they ran.
        calls: the runs of modules among the raw steps.
        layouts: number -> the axes of the tensor, as the trace left them.
        made_of: number -> parameters and buffers, for tensors made of nothing else.
        stored: number -> the names of a parameter or buffer itself.
        inputs: numbers of what the model was given, in order.
        outputs: numbers of what the model returned.
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
        """The axes of a tensor with every binding followed."""
        return tuple(map(resolve, self.layouts[number]))

    def has_constants(self, number: int) -> bool:
        """Whether a tensor made of parameters holds, or has had added to it, numbers that are no parameter's own."""
        step = self.made_by.get(number)
        if number in self.stored or step is None:
            return number not in self.stored
        if number in step.ins or step.op.kind in (Kind.CREATE, Kind.FILL, Kind.DRAW):
            return True  # what was written in place may have held some before
        if step.op.kind is Kind.LOOKUP:
            return self.has_constants(step.ins[0])
        found = list(map(self.has_constants, step.ins))
        return all(found) if step.op.kind is Kind.MULTIPLY else any(found)

    @cached_property
    def uses(self) -> tuple[tuple[Step, int], ...]:
        """Each operation on activations, with the number of each tensor among its operands that parameters make up."""
        found: list[tuple[Step, int]] = []
        for step in self.steps:
            of_parameters = [number for number in step.ins if number in self.made_of]
            if len(of_parameters) < len(step.ins):
                found += ((step, number) for number in of_parameters)
        return tuple(found)

    @cached_property
    def use_counts(self) -> Counter[str]:
        """How often each parameter or buffer has a part in an operand of an operation on activations."""
        return Counter(name for _, number in self.uses for name in self.made_of[number])

    @cached_property
    def read(self) -> frozenset[str]:
        """Names of the parameters and buffers that some operation reads, or that the model returns."""
        numbers = {number for step in self.raw for number in step.ins} | {*self.outputs}
        return frozenset(name for number in numbers for name in self.stored.get(number, ()))

    @cached_property
    def touched_by(self) -> defaultdict[int, list[int]]:
        """Number of a tensor -> the places of the operations that read it or change its memory, in order."""
        found = defaultdict[int, list[int]](list)
        for place, step in enumerate(self.steps):
            for number in dict.fromkeys((*step.ins, *step.overwritten)):
                found[number].append(place)
        return found

    @cached_property
    def made_by(self) -> Mapping[int, Step]:
        """Number of a tensor -> the operation that wrote it last."""
        return {number: step for step in self.steps for number in step.outs}


def _numbered(argument: Any) -> Any:
    """An argument with the number of each tensor in its place."""
    if isinstance(argument, Tensor):
        return Ref(id(argument))
    if isinstance(argument, list | tuple):
        return type(argument)(map(_numbered, argument))
    return argument


class Recorder:
    """Numbers the tensors of a pass while it runs; the tape keeps them alive, so identities last."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._repeats: Fraction | None = None

    def repeat(self, times: Fraction | None) -> None:
        """Let each operation that follows stand for so many, as it is one of a recurrent layer; None: of none."""
        self._repeats = times

    def add(
        self,
        call: Call,
        others: Iterable[Tensor],
        module: str,
        entry: int | None,
    ) -> None:
        """Take in one operation; `others` share the memory of what it wrote in place."""
        args, kwargs = _numbered(call.args), {name: _numbered(value) for name, value in call.kwargs.items()}
        numbers = tuple(map(id, call.outs))
        overwritten = tuple({id(other) for other in others} - set(numbers))
        own = call.name, call.op, module, args, kwargs, numbers, overwritten, entry, self._repeats, call.func
        self.steps.append(Step(*own))
