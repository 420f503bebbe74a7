"""A forward pass followed value by value, some runs of operations left out.

Values have numbers: two tensors, of one pass or of two, have the same number where they are computed alike from values
with the same numbers.
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
    """One pass under way.

    Attributes:
        trace: of the model.
        values: shared by both passes.
        source_path: path of a module -> that of its counterpart in the source.
        left_out: runs of operations to leave out, in order.
        uncalled: paths of modules whose calls do not count as entries of a signature.
        name: names of a parameter or buffer -> what identifies it; None: no tensor of the source.
        renormed: norms that are taken for one.
        dropped: module path -> entries of its signature that do not count.
        known: number of a tensor -> its value, as it is by now.
        zeros: values that are zero -> the closed modules that make them so.
        needed: of these, those whose zeros a sum has dropped.
        made: every value that an operation made, in order.
        ran: the same without mere views.
        strange: values that what was left out has a part in.
        fed: values that what was left out reads.
    """

    trace: Trace
    values: Values
    source_path: Callable[[str], str]
    left_out: Sequence[Closed]
    uncalled: Callable[[str], bool]
    name: Callable[[tuple[str, ...]], object | None]
    renormed: Renormed = field(default_factory=Renormed)
    known: dict[int, int] = field(default_factory=dict)
    zeros: dict[int, frozenset[str]] = field(default_factory=dict)
    dropped: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    needed: set[str] = field(default_factory=set)
    made: list[tuple[int, Step]] = field(default_factory=list)
    ran: list[tuple[int, Step]] = field(default_factory=list)
    strange: set[int] = field(default_factory=set)
    fed: set[int] = field(default_factory=set)
    _constants: int = 0

    def run(self) -> tuple[int, ...]:
        """The values of the outputs."""
        steps, at = self.trace.forward.raw, 0
        for closed in self.left_out:
            for step in steps[at : closed.first]:
                self._step(step)
            self._leave_out(closed, steps[closed.first : closed.end])
            at = closed.end
        for step in steps[at:]:
            self._step(step)
        return tuple(map(self.value, self.trace.forward.outputs))

    def value(self, number: int) -> int:
        """The value of a tensor; one met for the first time is stored, an input, or a constant."""
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
                self._constants += 1
                self.known[number] = self.values.of("constant", self._constants)
        return self.known[number]

    def _leave_out(self, closed: Closed, steps: Sequence[Step]) -> None:
        before = {number: self.value(number) for _, number in closed.outs if isinstance(number, int)}
        self.fed |= {self.known[number] for step in steps for number in step.ins if number in self.known}
        written = {number for step in steps for number in (*step.outs, *step.overwritten)}
        for number in written:
            self.known[number] = self.values.new("written", closed.path)
        for out, by in closed.outs:
            if isinstance(by, int):
                self.known[out] = before[by]
            else:
                self.known[out] = self.values.new(by, closed.path)
                self.strange.add(self.known[out])
                if by == "zero":
                    self.zeros[self.known[out]] = frozenset([closed.path])

    def _step(self, step: Step) -> None:
        if not self._drops_out(step) and not self._renorms(step):
            self._run(step)

    def _run(self, step: Step) -> None:
        ins = step.ins
        if step.entry is None and len(ins) == 1 and self._keeps_elements(step):
            outs = [self.value(ins[0])] * len(step.outs)
        else:
            operands = self._operand(step.args), *((name, self._operand(v)) for name, v in step.kwargs.items())
            place = self._picked(step) if step.entry is None else self._places.of(step)
            outs = [self.values.of(step.name, place, which, operands) for which in range(len(step.outs))]
            self.ran += ((value, step) for value in outs[:1])
            if any(self.value(number) in self.strange for number in ins):
                self.strange |= set(outs)
        self._put(step, outs)

    def _renorms(self, step: Step) -> bool:
        """Take in a norm that writes what was normalised before, or is normalised again; False for any other."""
        written = step.outs[0] if step.outs else None
        if written not in self.renormed.plain | self.renormed.last:
            return False
        x = step.ins[0]
        normed = self.value(x)
        match self.values.keys[normed]:
            case ("normed", int() as before):
                self.known[x] = before
        if written in self.renormed.plain:
            self.known |= {number: self.values.new("statistics") for number in step.outs[1:]}
            self.known[written] = self.values.of("normed", self.known[x])
        else:
            self._run(step)
        self.known[x] = normed
        return True

    def _put(self, step: Step, outs: Sequence[int]) -> None:
        writes = outs[0] if outs else self.values.new("written")
        for number in step.overwritten:
            self.known[number] = self.values.of("overwritten", self.value(number), writes)
        for number, value in zip(step.outs, outs, strict=True):
            self.known[number] = value
            self.made.append((value, step))

    def _operand(self, argument: Any) -> Any:
        if isinstance(argument, Ref):
            return self.value(argument.number)
        if isinstance(argument, list | tuple):
            return tuple(map(self._operand, argument))
        return None if argument is None else "number"

    @cached_property
    def _places(self) -> Places:
        return Places(self.trace, self.source_path, self.uncalled, self.dropped)

    def _keeps_elements(self, step: Step) -> bool:
        """Whether an operation hands on all elements in their order, up to rounding."""
        kind = step.kwargs.get("dtype")
        if step.name == "slice":
            before, after = map(self.trace.forward.axes, (step.ins[0], step.outs[0]))
            return list(map(axis_size, before)) == list(map(axis_size, after))
        return step.op.kind in _KEEPS_ORDER and (kind is None or kind.is_floating_point)

    def _picked(self, step: Step) -> Any:
        """Which elements an operation without an entry picks, in words that hold for both passes."""
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
        """The positions of an axis before `end`: how many, but one word for channels that may grow."""
        found: list[Any] = []
        for segment in axis:
            size = min(segment_size(segment), end)
            if size <= 0:
                break
            grows = self._grows((segment,))
            found.append(Fraction(size, segment_size(segment)) if grows else size)
            end -= size
        return tuple(found)

    def _grows(self, axis: Axis) -> bool:
        return not self.trace.growable.isdisjoint(groups_on(axis))

    def sizes(self, number: int) -> list[tuple[int, bool]]:
        """The sizes of a tensor, each with whether channels on it may grow."""
        return [(axis_size(axis), self._grows(axis)) for axis in self.trace.forward.axes(number)]

    def _drops_out(self, step: Step) -> bool:
        """Take in an operation that zeros make superfluous; False for any other."""
        ins = step.ins
        silent = [number for number in ins if self.value(number) in self.zeros]
        if not silent:
            return False
        closed = frozenset().union(*(self.zeros[self.value(number)] for number in silent))
        kept = [number for number in ins if number not in silent]
        if step.op.kind is Kind.ADD and len(ins) == 2 and step.arg(2, "alpha", 1) == 1:
            if step.name == "sub" and kept == [ins[1]]:
                return False
            sizes = [[axis_size(a) for a in self.trace.forward.layouts[n]] for n in (*ins, *step.outs)]
            if any(size != sizes[0] for size in sizes):
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
            return True  # zeros were added in place: neither it nor what shares its memory has changed
        self._put(step, [value] * len(step.outs))
        return True

    def _zero(self, closed: frozenset[str]) -> int:
        value = self.values.new("zero", *sorted(closed))
        self.zeros[value] = closed
        self.strange.add(value)
        return value

    def reached(self, ends: Iterable[int] | None = None) -> set[int]:
        """The values that `ends` are made of, by default the outputs."""
        reached = set[int]()
        waiting = list(map(self.value, self.trace.forward.outputs) if ends is None else ends)
        while waiting:
            value = waiting.pop()
            if value not in reached:
                reached.add(value)
                waiting += _operands(self.values.keys[value])
        return reached

    def idle(self) -> dict[str, set[int]]:
        """Entries of operations before or after what was left out that no output is made of, by module."""
        reached, found = self.reached(), defaultdict[str, set[int]](set)
        around = self.reached(self.fed) | self.strange
        working = {id(step) for value, step in self.made if value in reached or value not in around}
        for _, step in self.made:
            if step.entry is not None and id(step) not in working and not step.overwritten:
                found[step.module].add(step.entry)
        return found


def _operands(key: Any) -> list[int]:
    """The values in the key of a value made by an operation."""
    match key:
        case (str(), tuple(), int(), tuple() as operands):
            return [value for value in tree_leaves(operands) if isinstance(value, int)]
        case ("overwritten", int() as old, int() as new):
            return [old, new]
    return []
