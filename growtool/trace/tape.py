"""One forward pass, observed operation by operation on the meta device.

The tape keeps a `Value` for every tensor: its symbolic axes, the parameters that it is made of (if it is made of
nothing else) and its `Flow`. Rules say what an operation does to axes. An operation without a rule fixes every axis
that it touches, so that channels that growtool does not understand are never grown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from growtool.library import leaves_of
from growtool.trace.axes import (
    Axis,
    ChannelGroup,
    Owner,
    Unsolvable,
    axis_size,
    fix,
    fixed_reason,
    leaves,
    new_axes,
)
from growtool.trace.call import Axes, Call, Value, constant_axes
from growtool.trace.flow.flow import Flow, Params
from growtool.trace.flow.rules import flow_after, infinite_by, params_after, scaling
from growtool.trace.module_calls import ModuleCall, outcome
from growtool.trace.recurrence import FirstPositions
from growtool.trace.steps import Step, step_of
from growtool.trace.table.kinds import Kind
from growtool.trace.table.ops import name_of, op_of
from growtool.trace.table.signature import constant_signature, signature
from growtool.trace.unify import unify


@dataclass(frozen=True, slots=True)
class _Running:
    """A module that is running.

    Attributes:
        path: path of the module.
        values: what was known of the tensors that it received, when it received them.
        numbers: numbers of these tensors.
        first: index of its first step.
    """

    path: str
    values: tuple[Value, ...]
    numbers: tuple[int, ...]
    first: int


class Tape(TorchDispatchMode):
    """Observes a forward pass; the `Observer` of the rules.

    Attributes:
        steps: the operations so far.
        known: what is known of every tensor, by its number in the steps.
        recurrent: runs recurrent layers on their first positions.
        calls: the runs of modules that have ended.
        consumers: channel groups that a sum over a parameter's dimension runs over, with that dimension; the groups
            are those that the parameter was created with.
        uses: name of a parameter -> for each use of it beside activations, the dimensions of it that are summed over.
        scaled: as in `Trace`; None for a parameter that scales branches of different ends.
        received_activation: as in `Trace`; None for a module that received something else in another run.
        signatures, norm_eps, infinite, unknown: as in `Trace`.
        vectors: as in `Observer`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sharing: dict[int, list[Tensor]] = defaultdict(list)  # storage -> the tensors in it
        self._modules: list[_Running] = [_Running("", (), (), 0)]
        self._entered: Counter[int] = Counter()  # tokens of the inputs of the modules that are running
        self._unread: dict[int, Callable[[], None]] = {}  # number of a tensor -> what to do once its values are read
        self._consumed: set[Owner] = set()  # parameter dimensions summed over by the operation under way
        self.steps: list[Step] = []
        self.known: dict[int, Value] = {}
        self.recurrent = FirstPositions(self.fix_positions)
        self.calls: list[ModuleCall] = []
        self.consumers: set[tuple[ChannelGroup, Owner]] = set()
        self.uses: dict[str, set[frozenset[int]]] = defaultdict(set)
        self.scaled: dict[str, Params | None] = {}
        self.received_activation: dict[str, str | None] = {}
        self.signatures: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.norm_eps: dict[str, float] = {}
        self.infinite: set[Params] = set()
        self.unknown: Counter[str] = Counter()
        self.vectors: set[str] = set()

    def put(self, tensor: Tensor, value: Value) -> None:
        """Record what is known of a tensor."""
        assert [axis_size(axis) for axis in value.axes] == list(tensor.shape), (value.axes, tensor.shape)
        if id(tensor) not in self.known:
            # also keeps it alive: ids and storages are unique among living tensors only
            self._sharing[_memory(tensor)].append(tensor)
        self.known[id(tensor)] = value
        if value.stored is not None and tensor.ndim == 1:
            self.vectors.add(value.stored)

    def value(self, tensor: Tensor) -> Value:
        """Return what is known of a tensor; one that is met for the first time is a constant."""
        if id(tensor) not in self.known:
            self.put(tensor, Value(constant_axes(tensor), frozenset()))
            if not tensor.is_meta:
                self.signatures[self.module].append(constant_signature(tensor))
        return self.known[id(tensor)]

    def axes(self, tensor: Tensor) -> Axes:
        """Return the symbolic axes of a tensor."""
        return self.value(tensor).axes

    @property
    def module(self) -> str:
        """Path of the innermost module that is running."""
        return self._modules[-1].path

    def fix_positions(self, x_PNC: Tensor) -> None:
        """Fix the axis of positions of a tensor that a recurrent layer reads or writes."""
        fix(self.axes(x_PNC)[0], "positions of a recurrent layer")

    def when_read(self, tensor: Tensor, then: Callable[[], None]) -> None:
        """Call `then` once the values of a tensor are read; BART picks a channel for the sake of its shape alone."""
        self._unread[id(tensor)] = then

    def read(self, tensor: Tensor) -> None:
        """Note that the values of a tensor are read."""
        then = self._unread.pop(id(tensor), None)
        if then is not None:
            then()

    def contract(self, left: Tensor, left_axis: Axis, right: Tensor, right_axis: Axis) -> None:
        """Make one of two axes that a product sums over; a parameter among the tensors consumes their channels."""
        for tensor, axis in ((right, right_axis), (left, left_axis)):
            made_of = self.value(tensor).params
            if made_of:
                consumed = {(group, owner) for group in leaves(axis) for owner in group.owners if owner[0] in made_of}
                self.consumers |= consumed
                self._consumed |= {owner for _, owner in consumed}
                break
        unify(left_axis, right_axis)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        ins = leaves_of((args, kwargs))
        for tensor in ins:
            self.value(tensor)
            self.read(tensor)
        strides_before = [_sizes_and_strides(tensor) for tensor in ins]
        result = func(*args, **kwargs)
        rearranged = strides_before != [_sizes_and_strides(tensor) for tensor in ins]
        name = name_of(func)
        in_place = name.endswith("_") and not name.startswith("_")
        name = name.removesuffix("_") if in_place else name
        call = Call(name, op_of(name, func), func, args, kwargs, leaves_of(result), ins)
        self._record(call, rearranged)
        return result

    def _record(self, call: Call, rearranged: bool) -> None:
        """Take in one operation that has run; `rearranged`: it changed sizes or strides of an operand in place."""
        self._consumed = set()
        layouts = self._axes_after(call, rearranged)
        params = params_after(self, call)
        flow = Flow() if rearranged else flow_after(self, call).among(self._entered)
        infinite = infinite_by(self, call)
        if infinite is not None:
            self.infinite.add(infinite)
        if params is None:
            self._note_uses(call)
            scaled = scaling(self, call)
            if scaled is not None:
                scale, branch = scaled
                self.scaled[scale] = branch if self.scaled.get(scale, branch) == branch else None
        entry, place = signature(call, picks_fixed=self._picks_fixed(call)), None
        if entry is not None:
            place = len(self.signatures[self.module])
            self.signatures[self.module].append(entry)
        stored = self._stored_after(call)
        for number, (out, axes) in enumerate(zip(call.outs, layouts, strict=True)):
            known = self.known.get(id(out))
            # an operation in place, or one that returns its operand, gives axes to a tensor that has some
            if known is not None and not rearranged and any(out is tensor for tensor in call.ins):
                for old, new in zip(known.axes, axes, strict=True):
                    unify(old, new)
                axes = known.axes
            # the flow is that of the first result; of the others it is not known what they equal
            self.put(out, Value(axes, params, flow.renewed(bases={}, normed=None) if number else flow, stored))
        # a write through one tensor changes every other one in its storage, whether or not they overlap
        others = [other for t in call.written() for other in self._sharing[_memory(t)] if other is not t]
        self.steps.append(step_of(call, others, self.module, place, self.recurrent.repeats))
        for other in others:  # their values have changed, at least in part; their axes have not
            known = self.known[id(other)]
            made_of = None if params is None or known.params is None else params | known.params
            self.put(other, Value(known.axes, made_of))

    def _axes_after(self, call: Call, rearranged: bool) -> Sequence[Axes]:
        """Return the axes of each result; where no rule holds, fix all operands and results."""
        try:
            if rearranged:
                raise Unsolvable(f"{call.name}_ changes the layout of a tensor in place")
            if call.op.axes is None:
                self.unknown[str(call.func)] += 1
                raise Unsolvable(f"{call.name} is not known to the trace")
            return call.op.axes(self, call)
        except Unsolvable as error:
            reason = str(error)
        for tensor in call.ins:
            for axis in self.axes(tensor):
                fix(axis, reason)
        return [new_axes(out.shape, reason) for out in call.outs]

    def _stored_after(self, call: Call) -> str | None:
        """Return the `stored` name of the results: that of the operand, if they are the same parameter or buffer."""
        if len(call.ins) != 1:
            return None
        stored = self.value(call.ins[0]).stored
        in_order = call.op.kind in (Kind.RESHAPE, Kind.SQUEEZE)
        return stored if call.op.itself or (in_order and stored in self.vectors) else None

    def _note_uses(self, call: Call) -> None:
        """Note which dimensions of each parameter are summed over where it meets activations."""
        for tensor in call.ins:
            for name in self.value(tensor).params or ():
                self.uses[name].add(frozenset(dim for owner, dim in self._consumed if owner == name))

    def _picks_fixed(self, call: Call) -> bool:
        if call.op.kind is not Kind.PICK:
            return False
        source = call.args[0]
        return fixed_reason(self.axes(source)[call.arg(1, "dim", 0) % source.ndim]) is not None

    def watch(self, model: nn.Module) -> None:
        """Register hooks that follow which modules run; they stay."""
        for paths, module in _paths(model):
            module.register_forward_pre_hook(partial(self._enter, paths), with_kwargs=True)
            module.register_forward_hook(self._leave)

    def _enter(self, paths: Sequence[str], module: nn.Module, args: Any, kwargs: Any) -> None:
        # a shared module runs under its path in the module that calls it
        path = next((p for p in paths if p.startswith(f"{self.module}.")), paths[0])
        tensors = leaves_of((args, kwargs))
        values = tuple(map(self.value, tensors))
        if self.module != path:
            self.signatures[self.module].append(("call", path))
        self._modules.append(_Running(path, values, tuple(map(id, tensors)), len(self.steps)))
        activation = values[0].flow.activation if len(values) == 1 else None
        alike = self.received_activation.get(path, activation) == activation
        self.received_activation[path] = activation if alike else None
        self._entered.update(value.flow.token for value in values)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        running = self._modules.pop()
        tokens = tuple(value.flow.token for value in running.values)
        self._entered.subtract(tokens)
        ins, steps = running.numbers, (running.first, len(self.steps))
        outputs = (outcome(id(t), self.value(t).flow, t.shape, tokens, ins) for t in leaves_of(output))
        self.calls.append(ModuleCall(running.path, *steps, ins, tuple(outputs), isinstance(output, Tensor)))


def _paths(model: nn.Module) -> list[tuple[Sequence[str], nn.Module]]:
    """Return every module with its paths.

    A shared module without tensors, such as the activation of all blocks, has all of its paths. A shared one with
    tensors has only the first.
    """
    paths_of: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths_of.setdefault(module, []).append(path)
    return [
        (paths[:1] if len(paths) > 1 and module.state_dict() else paths, module) for module, paths in paths_of.items()
    ]


def _memory(tensor: Tensor) -> int:
    # the storage itself: meta tensors have no data, and a data pointer of 0 in common
    return int(tensor.untyped_storage()._cdata)


def _sizes_and_strides(tensor: Tensor) -> list[tuple[int, int]]:
    """Return size and stride of each dimension; the stride of a dimension of size 1 is arbitrary, and left out."""
    return [(n, stride if n > 1 else 0) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)]
