"""The trace of a model: which axes of its parameters carry the same channels, found by one pass on the meta device."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from growtool.errors import CheckpointError
from growtool.library import Inputs, ModelSpec, Words, leaves_of, library_of, meta_inputs
from growtool.library.caches import empty_caches
from growtool.trace.axes import MODEL_OUTPUT, ChannelGroup, fix, groups_on, new_axis, resolve
from growtool.trace.call import Axes, Value
from growtool.trace.canonical import Canonical
from growtool.trace.constants import constant_axes
from growtool.trace.flow.flow import Flow, Params
from growtool.trace.fused_norms import with_fused_norms
from growtool.trace.known import on_meta
from growtool.trace.module_calls import exits_of
from growtool.trace.recurrence import FirstPositions
from growtool.trace.steps import ForwardPass
from growtool.trace.tape import Tape

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Member:
    """One parameter dimension that carries a group: as `consumer` (a sum runs over it), `producer` or `vector`."""

    tensor: str
    dim: int
    role: str


@dataclass(frozen=True, slots=True)
class NamedGroup:
    """Channels that grow as one, and every parameter dimension that carries them.

    `name` is the first member with the place of these channels in its layout, e.g. `blocks.0.attn.qkv.weight[0].1` for
    the head size behind the number of heads; it is stable for an architecture, whatever its widths.
    """

    name: str
    group: ChannelGroup
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.group.size

    @property
    def fixed(self) -> str | None:
        """Why the channels cannot grow, or None."""
        return self.group.fixed


@dataclass(frozen=True, eq=False)
class Trace:
    """What one forward pass tells about a model.

    Attributes:
        tensors: parameter or buffer name -> the symbolic layout of each of its dimensions.
        consumers: (channel group, name, dim) where the channels of the channel group are summed over.
        signatures: module path -> its operations in order, without sizes.
        exits: module path -> parameters that, set to zero, make the module return its input unchanged.
        scaled: parameter that scales a residual branch at its end -> the parameters of the last affine step before it.
        norm_eps: parameter or buffer of a BatchNorm that can pass on what it receives -> the eps of the norm.
        received: module path -> the idempotent activation that its one input comes out of (`relu()`).
        infinite: sets of parameters that make a value infinite, or no number, if they are zero together.
        ambiguous: parameters that are summed over along different dimensions in different places.
        unknown: operations without a rule (their axes are fixed) and how often they ran.
        forward: every operation in order.
    """

    tensors: Mapping[str, Axes]
    consumers: frozenset[tuple[ChannelGroup, str, int]]
    signatures: Mapping[str, tuple[tuple[Any, ...], ...]]
    exits: Mapping[str, Params]
    scaled: Mapping[str, Params]
    norm_eps: Mapping[str, float]
    received: Mapping[str, str]
    infinite: frozenset[Params]
    ambiguous: Params
    unknown: Mapping[str, int]
    forward: ForwardPass

    @cached_property
    def closable(self) -> frozenset[str]:
        """Paths of residual modules, on whatever terms these return their input: they may start as if not there."""
        firsts = ((call.path, call.outs[0].same) for call in self.forward.calls if call.outs)
        return frozenset(path for path, same in firsts if same is not None and same.params)

    @cached_property
    def growable(self) -> frozenset[ChannelGroup]:
        """The channels that parameters or buffers carry and that may grow."""
        carried = (group for axes in self.tensors.values() for axis in axes for group in groups_on(axis))
        return frozenset(group for group in carried if group.fixed is None)

    def tensors_in(self, path: str) -> Sequence[str]:
        """The names of the tensors that a module holds, everything inside included."""
        return _below(path, self._sorted_tensors)

    def modules_in(self, path: str) -> Sequence[str]:
        """The paths with a signature that are that of a module, or of something in it."""
        own = [path] if path in self.signatures else []
        return [*own, *_below(path, self._sorted_modules)]

    @cached_property
    def _sorted_tensors(self) -> list[str]:
        return sorted(self.tensors)

    @cached_property
    def _sorted_modules(self) -> list[str]:
        return sorted(self.signatures)

    def __repr__(self) -> str:
        return f"Trace({len(self.tensors)} tensors, {len(self.groups)} groups of channels)"

    @property
    def names(self) -> dict[ChannelGroup, str]:
        """The name of each group by its channels."""
        return {group.group: group.name for group in self.groups}

    @property
    def groups(self) -> tuple[NamedGroup, ...]:
        """Every width group with its members, in the order of the model's parameters."""
        members: dict[ChannelGroup, list[Member]] = defaultdict(list)
        names: dict[ChannelGroup, str] = {}
        for name, axes in self.tensors.items():
            for dim, axis in enumerate(axes):
                for place, group in enumerate(dict.fromkeys(groups_on(axis))):
                    names.setdefault(group, f"{name}[{dim}].{place}")
                    role = "vector" if len(axes) == 1 else "producer"
                    role = "consumer" if (group, name, dim) in self.consumers else role
                    members[group].append(Member(name, dim, role))
        return tuple(NamedGroup(names[group], group, tuple(found)) for group, found in members.items())


def _below(path: str, names: Sequence[str]) -> Sequence[str]:
    """Of sorted names those that begin with a path and a dot: they stand together, as `/` comes right after the dot."""
    return names[bisect_left(names, f"{path}.") : bisect_left(names, f"{path}/")]


Run = Callable[[nn.Module, Inputs], tuple[Tensor, ...]]


def trace_built(spec: ModelSpec, model: nn.Module) -> Trace:
    """Trace one forward pass, on meta, of the model that its library has built from `spec`.

    Args:
        spec: tells the library, which makes the inputs.
        model: in eval mode; parameters may be on meta, buffers must be real (their values decide what may grow).

    Returns:
        The trace; the model is left as it was.

    Raises:
        CheckpointError: the model cannot run on such inputs.
    """
    library = library_of(spec)
    inputs, may_grow = meta_inputs(spec, model, 2), library.outputs_may_grow(model)
    return _traced(model, inputs, library.run, library.words, outputs_may_grow=may_grow)


def trace_model(model: nn.Module, *input_sizes: tuple[int, ...], outputs_may_grow: bool = False) -> Trace:
    """Trace one forward pass of any module that is called with tensors of numbers alone.

    Args:
        model: as for `trace_built`.
        input_sizes: the size of each tensor without the batch, such as channels, height, width.
        outputs_may_grow: whether the outputs are features, wider where the model is.

    Raises:
        CheckpointError: the model cannot run on such tensors.
    """
    inputs = Inputs({str(i): torch.zeros((2, *size), device="meta") for i, size in enumerate(input_sizes)})
    return _traced(model, inputs, _by_position, Words(), outputs_may_grow=outputs_may_grow)


def _by_position(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    return leaves_of(model(*inputs.tensors.values()))


def _traced(model: nn.Module, inputs: Inputs, run: Run, words: Words, *, outputs_may_grow: bool) -> Trace:
    buffers = dict(model.named_buffers(remove_duplicate=False))
    constants = {name: constant_axes(b) for name, b in buffers.items() if not name.endswith(_STATISTICS)}
    replica = copy.deepcopy(model).to("meta").eval()
    empty_caches(replica)
    tape = Tape()
    named = _register(tape, replica, constants)
    for tensor in inputs.tensors.values():
        count, *size = tensor.shape
        tape.put(tensor, Value((new_axis(count), *(new_axis(n, words.the_input) for n in size))))
    handles = tape.watch(replica)
    try:
        with (
            torch.no_grad(),
            Canonical(),
            FirstPositions(tape.recorder.repeat, tape.fix_positions),
            on_meta(),
            tape,
        ):
            outputs = run(replica, inputs)
    except Exception as error:
        raise CheckpointError(f"{type(model).__name__}: the forward pass {_failed(error, inputs, words)}") from error
    finally:
        for handle in handles:
            handle.remove()
    for output in outputs:
        tape.read(output)
    if not outputs_may_grow:
        for output in outputs:
            for axis in tape.axes(output)[1:]:
                fix(axis, MODEL_OUTPUT)
    ends = tuple(map(id, inputs.tensors.values())), tuple(map(id, outputs))
    return _collect(tape, named, _names(replica), *ends)


def _failed(error: Exception, inputs: Inputs, words: Words) -> str:
    taken = f"{words.sized(inputs.sizes)}{words.in_axes}"
    if isinstance(error, NotImplementedError) or "on meta tensors" in str(error):
        return (
            f"asks, on {taken}, for numbers that depend on its input or its weights to decide what to compute, "
            "expected one that does the same whatever they are; growtool cannot follow this model"
        )
    return f"failed on {taken}: {type(error).__name__}: {error}; {words.refit}"


def _register(tape: Tape, model: nn.Module, constants: Mapping[str, Axes]) -> dict[str, Axes]:
    named: dict[str, Axes] = {}
    seen: dict[int, Axes] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = defaultdict(list)  # a shared parameter has several, and each plays its roles
    for name, parameter in parameters.items():
        names[id(parameter)].append(name)
    for name, parameter in parameters.items():
        if id(parameter) not in seen:
            shared = names[id(parameter)]
            axes = tuple(new_axis(n, None, frozenset((s, i) for s in shared)) for i, n in enumerate(parameter.shape))
            alone = name if len(shared) == 1 else None
            tape.put(parameter, Value(axes, frozenset(shared), Flow(zeroed_by=frozenset(shared)), alone))
            seen[id(parameter)] = axes
        named[name] = seen[id(parameter)]
    held = _names(model)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if id(buffer) not in seen:
            axes = constants.get(name) or tuple(new_axis(n) for n in buffer.shape)
            alone = name if len(held[id(buffer)]) == 1 else None
            tape.put(buffer, Value(axes, frozenset([name]), stored=alone))
            seen[id(buffer)] = axes
        named[name] = seen[id(buffer)]
    return named


def _names(model: nn.Module) -> dict[int, tuple[str, ...]]:
    names: dict[int, tuple[str, ...]] = {}
    held = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in held:
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names


def _collect(
    tape: Tape,
    named: Mapping[str, Axes],
    stored: Mapping[int, tuple[str, ...]],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> Trace:
    consumers = frozenset(
        (group, name, dim) for marked, (name, dim) in tape.consumers for group in groups_on(((marked,),))
    )  # fmt: skip
    tensors = {name: tuple(map(resolve, axes)) for name, axes in named.items()}
    layouts = {number: value.axes for number, value in tape.known().items()}
    made_of = {number: value.params for number, value in tape.known().items() if value.params is not None}
    return Trace(
        tensors=tensors,
        consumers=consumers,
        signatures={path: tuple(entries) for path, entries in tape.signatures.items()},
        exits=exits_of(tape.calls),
        scaled={name: params for name, params in tape.scaled.items() if params},
        norm_eps=tape.norm_eps,
        received={path: name for path, name in tape.received.items() if name},
        infinite=frozenset(tape.infinite),
        ambiguous=frozenset(name for name, uses in tape.uses.items() if len(uses) > 1),
        unknown=dict(tape.unknown),
        forward=ForwardPass(
            steps=with_fused_norms(tape.recorder.steps, layouts, made_of),
            raw=tuple(tape.recorder.steps),
            calls=tuple(tape.calls),
            layouts=layouts,
            made_of=made_of,
            stored=stored,
            inputs=inputs,
            outputs=outputs,
        ),
    )
