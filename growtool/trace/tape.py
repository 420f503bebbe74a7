"""One forward pass, observed operation by operation on the meta device.

The tape keeps for every tensor its symbolic axes, the parameters it was made of (if it was made of nothing else) and
its `Flow`. What an operation does to axes is said by the rules; an operation without a rule fixes every axis it
touches, so that what growtool does not understand can never be grown wrongly.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from growtool.library import leaves_of
from growtool.trace.alias import Aliases, written
from growtool.trace.axes import (
    Axis,
    ChannelGroup,
    Owner,
    Unsolvable,
    axis_size,
    fix,
    is_fixed,
    new_axis,
    owners,
)
from growtool.trace.call import Axes, Call, Value
from growtool.trace.constants import constant_axes
from growtool.trace.flow.flow import Flow, Normed, Params
from growtool.trace.flow.rules import flow_after, infinite_by, params_after, scaling
from growtool.trace.module_calls import ModuleCall, outcome
from growtool.trace.steps import Recorder
from growtool.trace.table.kinds import Kind
from growtool.trace.table.ops import op_of
from growtool.trace.table.signature import constant_signature, signature
from growtool.trace.unify import unify


@dataclass(frozen=True, slots=True)
class _Running:
    """A module under way: its path, what it received, the numbers of these tensors, and its first step."""

    path: str
    values: tuple[Value, ...]
    numbers: tuple[int, ...]
    first: int


class Tape(TorchDispatchMode):
    """Observes a forward pass.

    Results: `consumers`, `uses`, `signatures`, `calls`, `scaled`, `norm_eps`, `unknown`, `recorder`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values: dict[int, Value] = {}
        self._aliases = Aliases()
        self._modules: list[_Running] = [_Running("", (), (), 0)]
        self._entered: Counter[int] = Counter()  # tokens of the inputs of the modules that are running
        self.consumers: set[tuple[ChannelGroup, Owner]] = set()
        self.signatures: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.calls: list[ModuleCall] = []
        self.norm_eps: dict[str, float] = {}
        self.vectors: set[str] = set()  # parameters and buffers of one dimension
        self.scaled: dict[str, Params | None] = {}
        self.received: dict[str, str | None] = {}
        self.infinite: set[Params] = set()
        self.unknown: Counter[str] = Counter()
        self.uses: dict[str, set[frozenset[int]]] = defaultdict(set)
        self._unread: dict[int, Callable[[], None]] = {}
        self._consumed: set[Owner] = set()  # parameter dimensions summed over by the operation under way
        self.activations: dict[int, str] = {}
        self.norms: dict[int, Normed] = {}
        self.recorder = Recorder()

    def put(self, tensor: Tensor, value: Value) -> None:
        """Record what is known of a tensor."""
        assert [axis_size(axis) for axis in value.axes] == list(tensor.shape), (value.axes, tensor.shape)
        if id(tensor) not in self._values:
            self._aliases.add(tensor)  # which keeps it alive: ids are only unique among living tensors
        self._values[id(tensor)] = value
        if value.stored is not None and tensor.ndim == 1:
            self.vectors.add(value.stored)
        if value.flow.activation:
            self.activations[value.flow.token] = value.flow.activation
        if value.flow.normed is not None:
            self.norms[value.flow.token] = value.flow.normed

    def value(self, tensor: Tensor) -> Value:
        """What is known of a tensor; a constant met for the first time may grow along axes it does not vary on."""
        if id(tensor) not in self._values:
            self.put(tensor, Value(constant_axes(tensor), frozenset()))
            if not tensor.is_meta:
                self.signatures[self.module].append(constant_signature(tensor))
        return self._values[id(tensor)]

    def axes(self, tensor: Tensor) -> Axes:
        """The symbolic axes of a tensor."""
        return self.value(tensor).axes

    @property
    def module(self) -> str:
        """Path of the innermost module that is running."""
        return self._modules[-1].path

    def stored_name(self, tensor: Tensor) -> str | None:
        """The name of the one parameter or buffer that a tensor is, transposed or not, a vector in any shape."""
        return self.value(tensor).stored

    def fix_positions(self, tensor: Tensor) -> None:
        """Fix the first axis of what a recurrent layer reads or writes: a position depends on all before it."""
        fix(self.axes(tensor)[0], "positions of a recurrent layer")

    def when_read(self, tensor: Tensor, then: Callable[[], None]) -> None:
        """Put off what matters only if the numbers of a tensor do: models make some for their shape alone."""
        self._unread[id(tensor)] = then

    def read(self, tensor: Tensor) -> None:
        """Say that the numbers of a tensor matter."""
        then = self._unread.pop(id(tensor), None)
        if then is not None:
            then()

    def contract(self, left: Tensor, left_axis: Axis, right: Tensor, right_axis: Axis) -> None:
        """Sum over a shared axis of two tensors; a parameter among them consumes the channels of that axis."""
        for tensor, axis in ((right, right_axis), (left, left_axis)):
            if self.value(tensor).params:
                made_of = self.value(tensor).params or frozenset()
                found = {(group, owner) for group, owner in owners(axis) if owner[0] in made_of}
                self.consumers |= found
                self._consumed |= {owner for _, owner in found}
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
        before = [_layout(tensor) for tensor in ins]
        result = func(*args, **kwargs)
        turned = before != [_layout(tensor) for tensor in ins]
        name = func._schema.name.split("::")[1]
        in_place = name.endswith("_") and not name.startswith("_")
        outs = leaves_of(result)
        name = name.removesuffix("_") if in_place else name
        call = Call(name, op_of(name, func), func, args, kwargs, ins, outs)
        self._record(call, turned)
        return result

    def _record(self, call: Call, turned: bool) -> None:
        """Take in one operation; `turned` says whether it changed the layout of an operand in place."""
        self._consumed = set()
        try:
            if turned:
                raise Unsolvable(f"{call.name}_ changes the layout of a tensor in place")
            if call.op.axes is None:
                self.unknown[str(call.func)] += 1
                raise Unsolvable(f"{call.name} is not known to the trace")
            layouts = call.op.axes(self, call)
        except Unsolvable as reason:
            layouts = self._give_up(call, str(reason))
        params = params_after(self, call)
        flow = Flow() if turned else flow_after(self, call).among(self._entered)
        infinite = infinite_by(self, call)
        if infinite is not None:
            self.infinite.add(infinite)
        if params is None:
            self._note_uses(call)
            found = scaling(self, call)
            if found is not None:
                scale, behind = found
                self.scaled[scale] = behind if self.scaled.get(scale, behind) == behind else None
        entry, place = signature(call, picks_fixed=self._picks_fixed(call)), None
        if entry is not None:
            place = len(self.signatures[self.module])
            self.signatures[self.module].append(entry)
        stored = self._stored_after(call)
        for number, (out, axes) in enumerate(zip(call.outs, layouts, strict=True)):
            known = self._values.get(id(out))
            if known is not None and not turned and any(out is tensor for tensor in call.ins):
                for old, new in zip(known.axes, axes, strict=True):
                    unify(old, new)
                axes = known.axes
            self.put(out, Value(axes, params, flow.renewed(bases={}, normed=None) if number else flow, stored))
        others = [other for t in written(call.func, call.args, call.kwargs) for other in self._aliases.others(t)]
        self.recorder.add(call, others, self.module, place)
        for other in others:  # what was known of the values in that memory holds no more; the axes stay
            known = self._values[id(other)]
            made_of = None if params is None or known.params is None else params | known.params
            self.put(other, Value(known.axes, made_of))

    def _stored_after(self, call: Call) -> str | None:
        if len(call.ins) != 1:
            return None
        found = self.value(call.ins[0]).stored
        in_order = call.op.kind in (Kind.RESHAPE, Kind.SQUEEZE)  # of a vector's values
        keeps = call.op.itself or (in_order and found in self.vectors)
        return found if keeps else None

    def known(self) -> dict[int, Value]:
        """What is known of every tensor met, by its number in the recorded steps."""
        return dict(self._values)

    def _note_uses(self, call: Call) -> None:
        """Where parameters meet activations: which of their dimensions a sum runs over, use by use."""
        for tensor in call.ins:
            for name in self.value(tensor).params or ():
                self.uses[name].add(frozenset(dim for owner, dim in self._consumed if owner == name))

    def _picks_fixed(self, call: Call) -> bool:
        if call.op.kind is not Kind.PICK:
            return False
        source = call.args[0]
        return is_fixed(self.axes(source)[call.arg(1, "dim", 0) % source.ndim]) is not None

    def _give_up(self, call: Call, reason: str) -> list[Axes]:
        for tensor in call.ins:
            for axis in self.axes(tensor):
                fix(axis, reason)
        return [tuple(new_axis(n, reason) for n in out.shape) for out in call.outs]

    def watch(self, model: nn.Module) -> list[Any]:
        """Hooks that keep track of the running module and of residual blocks; the handles to remove them."""
        handles: list[Any] = []
        for paths, module in _named(model):
            handles.append(module.register_forward_pre_hook(self._enter(paths), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave()))
        return handles

    def _enter(self, paths: Sequence[str]) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            path = next((p for p in paths if p.startswith(f"{self.module}.")), paths[0])
            tensors = leaves_of((args, kwargs))
            values = tuple(map(self.value, tensors))
            if self.module != path:
                self.signatures[self.module].append(("call", path))
            self._modules.append(_Running(path, values, tuple(map(id, tensors)), len(self.recorder.steps)))
            activation = values[0].flow.activation if len(values) == 1 else None
            self.received[path] = activation if self.received.get(path, activation) == activation else None
            self._entered.update(value.flow.token for value in values)

        return enter

    def _leave(self) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            running = self._modules.pop()
            self._entered.subtract(value.flow.token for value in running.values)
            tokens = tuple(value.flow.token for value in running.values)
            ins, steps = running.numbers, (running.first, len(self.recorder.steps))
            outputs = (outcome(id(t), self.value(t).flow, t.shape, tokens, ins) for t in leaves_of(output))
            self.calls.append(ModuleCall(running.path, *steps, ins, tuple(outputs), isinstance(output, Tensor)))

        return leave


def _named(model: nn.Module) -> list[tuple[Sequence[str], nn.Module]]:
    """Every module with its path; one without tensors, say an activation that all blocks share, with all it has."""
    found: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(path)
    return [(paths[:1] if len(paths) > 1 and module.state_dict() else paths, module) for module, paths in found.items()]


def _layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Size and stride of each dimension; the stride of a single position says nothing."""
    return [(n, stride if n > 1 else 0) for n, stride in zip(tensor.shape, tensor.stride(), strict=True)]
