"""Value numbering of a forward pass, as compilers do it, with some runs of operations left out.

Every value of the pass gets a number. Two tensors, of one pass or of two, have the same number if the same operation at
the same place computes them from values with the same numbers: then they are equal, whatever the weights.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch.utils._pytree import tree_leaves

from growtool.prove.lockstep import Places
from growtool.prove.numbers import Closed, Renormed, Values
from growtool.trace import Trace, groups_on
from growtool.trace.axes import Axis, axis_size, segment_size
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind

_KEEPS_ORDER = (Kind.RESHAPE, Kind.SAME, Kind.SQUEEZE, Kind.EXPAND, Kind.STRIDE, Kind.OVERWRITE)


@dataclass
class ValueNumbering:
    """The numbering of one pass.

    Attributes:
        trace: of the model.
        values: the numbers of values, shared by both passes.
        source_path: path of a module -> that of its counterpart in the source.
        closed: runs of operations to leave out, in order.
        uncalled: whether calls of a module do not count as entries of a signature.
        name: names of a parameter or buffer -> what identifies it in both models; None: no tensor of the source.
        renormed: norms of what has been normalised already.
        known: number of a tensor -> the number of its present value; operations in place change it.
        zeros: number of a zero value -> the closed modules that make it zero.
        dropped: module path -> entries of its signature that do not count.
        needed: closed modules whose zeros a sum has dropped.
        produced: value and operation of every result, in order.
        executed: value and operation of every first result, but for mere views.
        affected: values that a closed run has a part in.
        consumed: values that a closed run reads.
    """

    trace: Trace
    values: Values
    source_path: Callable[[str], str]
    closed: Sequence[Closed]
    uncalled: Callable[[str], bool]
    name: Callable[[tuple[str, ...]], object | None]
    renormed: Renormed = field(default_factory=Renormed)
    known: dict[int, int] = field(default_factory=dict)
    zeros: dict[int, frozenset[str]] = field(default_factory=dict)
    dropped: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    needed: set[str] = field(default_factory=set)
    produced: list[tuple[int, Step]] = field(default_factory=list)
    executed: list[tuple[int, Step]] = field(default_factory=list)
    affected: set[int] = field(default_factory=set)
    consumed: set[int] = field(default_factory=set)
    _constants: int = 0

    def run(self) -> tuple[int, ...]:
        """Number every value, and return the values of the outputs."""
        steps, place = self.trace.forward.raw, 0
        for closed in self.closed:
            for step in steps[place : closed.first]:
                self._take(step)
            self._leave_out(closed, steps[closed.first : closed.end])
            place = closed.end
        for step in steps[place:]:
            self._take(step)
        return tuple(map(self.value, self.trace.forward.outputs))

    def value(self, number: int) -> int:
        """Return the value of a tensor; one that no operation has written is stored, an input, or a constant."""
        if number not in self.known:
            inputs, names = self.trace.forward.inputs, self.trace.forward.stored.get(number)
            if names is not None:
                name = self.name(names)
                self.known[number] = (
                    self.values.new("stored", names) if name is None else self.values.of("stored", name)
                )
            elif number in inputs:
                self.known[number] = self.values.of("input", inputs.index(number))
            else:
                # The first constant of one pass stands for the first of the other, and so on; signatures hold their
                # values.
                self._constants += 1
                self.known[number] = self.values.of("constant", self._constants)
        return self.known[number]

    def _leave_out(self, closed: Closed, steps: Sequence[Step]) -> None:
        """Leave out a run: nothing it writes is known, but for what `closed` says of the tensors that it returns."""
        received = {number: self.value(number) for _, number in closed.outs if isinstance(number, int)}
        self.consumed |= {self.known[number] for step in steps for number in step.ins if number in self.known}
        written = {number for step in steps for number in (*step.outs, *step.overwritten)}
        for number in written:
            self.known[number] = self.values.new("written", closed.path)
        for out, equals in closed.outs:
            if isinstance(equals, int):
                self.known[out] = received[equals]
            else:
                self.known[out] = self.values.new(equals, closed.path)
                self.affected.add(self.known[out])
                if equals == "zero":
                    self.zeros[self.known[out]] = frozenset([closed.path])

    def _take(self, step: Step) -> None:
        """Number the results of one operation."""
        if not self._drops_out(step) and not self._renorms(step):
            self._execute(step)

    def _execute(self, step: Step) -> None:
        ins = step.ins
        if step.entry is None and len(ins) == 1 and self._keeps_elements(step):
            outs = [self.value(ins[0])] * len(step.outs)
        else:
            # Plain numbers among the arguments do not count here: they are in the entries of the signatures, which
            # `Lockstep.differences` compares.
            operands = self._operand(step.args), *((name, self._operand(v)) for name, v in step.kwargs.items())
            place = self._picked(step) if step.entry is None else self._places.of(step)
            outs = [self.values.of(step.name, place, which, operands) for which in range(len(step.outs))]
            self.executed += ((value, step) for value in outs[:1])
            if any(self.value(number) in self.affected for number in ins):
                self.affected |= set(outs)
        self._put(step, outs)

    def _renorms(self, step: Step) -> bool:
        """Number the results of a norm in `renormed`, and return whether the operation is one.

        A norm of n(z) is taken for a norm of z: `g n(n(z)) + b` gets the number of `g n(z) + b`.
        """
        written = step.outs[0] if step.outs else None
        if written not in self.renormed.plain | self.renormed.last:
            return False
        x = step.ins[0]
        value = self.value(x)
        match self.values.keys[value]:
            case ("normed", int() as z):
                self.known[x] = z  # for this operation alone
        if written in self.renormed.plain:
            self.known |= {number: self.values.new("statistics") for number in step.outs[1:]}
            self.known[written] = self.values.of("normed", self.known[x])
        else:
            self._execute(step)
        self.known[x] = value
        return True

    def _put(self, step: Step, outs: Sequence[int]) -> None:
        """Keep the values of an operation's results, and change those of tensors that share the memory it wrote."""
        writes = outs[0] if outs else self.values.new("written")
        for number in step.overwritten:
            self.known[number] = self.values.of("overwritten", self.value(number), writes)
        for number, value in zip(step.outs, outs, strict=True):
            self.known[number] = value
            self.produced.append((value, step))

    def _operand(self, argument: Any) -> Any:
        """Return an argument with values in place of tensors, and one word in place of any number."""
        if isinstance(argument, Ref):
            return self.value(argument.number)
        if isinstance(argument, list | tuple):
            return tuple(map(self._operand, argument))
        return None if argument is None else "number"

    @cached_property
    def _places(self) -> Places:
        return Places(self.trace, self.source_path, self.uncalled, self.dropped)

    def _keeps_elements(self, step: Step) -> bool:
        """Return whether an operation hands on all elements in their order, up to rounding."""
        dtype = step.kwargs.get("dtype")
        if step.name == "slice":
            before, after = map(self.trace.forward.axes, (step.ins[0], step.outs[0]))
            return list(map(axis_size, before)) == list(map(axis_size, after))
        return step.op.kind in _KEEPS_ORDER and (dtype is None or dtype.is_floating_point)

    def _picked(self, step: Step) -> Any:
        """Return a key for the elements that an operation without an entry picks, equal for counterparts.

        Where channels that may grow are picked there is no entry, as its numbers would change with the width.
        """
        if step.op.kind not in (Kind.PICK, Kind.SPLIT) or step.op.dim is None:
            return (step.kwargs.get("dtype"),)
        axes = self.trace.forward.axes(step.ins[0])
        dim = step.arg(step.op.dim, "dim", 0) % len(axes)
        if step.name == "select":
            return dim, self._until(axes[dim], step.arg(2, "index") % axis_size(axes[dim]))
        if step.name == "unbind":
            return (dim,)
        start, stride = (step.arg(2, "start"), step.arg(4, "step", 1)) if step.name == "slice" else (0, 1)
        whole = axis_size(axes[dim])
        first = slice(start, None).indices(whole)[0]
        if stride > 1:  # one position of each `stride`, or positions that cannot grow
            size = axis_size(self.trace.forward.axes(step.outs[0])[dim])
            return dim, stride, first, None if size * stride == whole else size
        sizes = (axis_size(self.trace.forward.axes(number)[dim]) for number in step.outs)
        bounds = itertools.accumulate(sizes, initial=first)
        return dim, *(self._until(axes[dim], bound) for bound in bounds)

    def _until(self, axis: Axis, end: int) -> tuple[Any, ...]:
        """Return a key for the positions of an axis before `end`, equal for counterparts.

        It holds the number of positions in each segment, or the share of the segment if its channels may grow.
        """
        key: list[Any] = []
        for segment in axis:
            size = min(segment_size(segment), end)
            if size <= 0:
                break
            key.append(Fraction(size, segment_size(segment)) if self._grows((segment,)) else size)
            end -= size
        return tuple(key)

    def _grows(self, axis: Axis) -> bool:
        return not self.trace.growable.isdisjoint(groups_on(axis))

    def sizes(self, number: int) -> list[tuple[int, bool]]:
        """Return the sizes of a tensor, each with whether channels on it may grow."""
        return [(axis_size(axis), self._grows(axis)) for axis in self.trace.forward.axes(number)]

    def _drops_out(self, step: Step) -> bool:
        """Number the results of an operation that zeros make superfluous, and return whether it is one.

        `x + 0` and `x - 0` are x; zeros that are multiplied, or only moved, are zeros.
        """
        ins = step.ins
        silent = [number for number in ins if self.value(number) in self.zeros]
        if not silent:
            return False
        closed = frozenset().union(*(self.zeros[self.value(number)] for number in silent))
        kept = [number for number in ins if number not in silent]
        if step.op.kind is Kind.ADD and len(ins) == 2 and step.arg(2, "alpha", 1) == 1:
            if step.name == "sub" and kept == [ins[1]]:  # 0 - x
                return False
            sizes = [[axis_size(a) for a in self.trace.forward.layouts[n]] for n in (*ins, *step.outs)]
            if any(size != sizes[0] for size in sizes):  # x is repeated along some dimension
                return False
            if kept:
                self.needed |= closed
                value = self.value(kept[0])
            else:
                value = self._zero(closed)
        elif step.name == "mul" or (step.op.moves and step.op.kind is not Kind.OVERWRITE and len(ins) == 1):
            value = self._zero(closed)
        else:
            return False
        if step.entry is not None:
            self.dropped[step.module].add(step.entry)
        if kept and step.outs == (kept[0],):
            return True  # zeros were added in place: neither x nor what shares its memory has changed
        self._put(step, [value] * len(step.outs))
        return True

    def _zero(self, closed: frozenset[str]) -> int:
        """Return a new zero value that these closed modules make zero."""
        value = self.values.new("zero", *sorted(closed))
        self.zeros[value] = closed
        self.affected.add(value)
        return value

    def reached(self, ends: Iterable[int] | None = None) -> set[int]:
        """Return the values that `ends` are made of, by default the outputs, themselves included."""
        reached = set[int]()
        waiting = list(map(self.value, self.trace.forward.outputs) if ends is None else ends)
        while waiting:
            value = waiting.pop()
            if value not in reached:
                reached.add(value)
                waiting += _operands(self.values.keys[value])
        return reached

    def idle(self) -> dict[str, set[int]]:
        """Return entries that no output is made of, by module: operations that feed closed runs or follow from them.

        Other operations that lead nowhere, in the source as well, are not among them.
        """
        reached, entries = self.reached(), defaultdict[str, set[int]](set)
        around_closed = self.reached(self.consumed) | self.affected
        working = {id(step) for value, step in self.produced if value in reached or value not in around_closed}
        for _, step in self.produced:
            if step.entry is not None and id(step) not in working and not step.overwritten:
                entries[step.module].add(step.entry)
        return entries


def _operands(key: Any) -> list[int]:
    """Return the values in the key of a value: the operands of the operation that made it."""
    match key:
        case (str(), tuple(), int(), tuple() as operands):
            return [value for value in tree_leaves(operands) if isinstance(value, int)]
        case ("overwritten", int() as old, int() as new):
            return [old, new]
    return []
