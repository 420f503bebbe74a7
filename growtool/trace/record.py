"""Tracing a model: one forward pass on the meta device finds which axes of its parameters carry the same channels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from growtool.errors import CheckpointError
from growtool.library import Inputs, ModelSpec, Words, leaves_of, library_of, meta_inputs
from growtool.library.building import empty_caches
from growtool.trace.axes import MODEL_OUTPUT, fix, groups_on, new_axes, new_axis, resolve
from growtool.trace.call import Axes, Value, constant_axes
from growtool.trace.canonical import Canonical
from growtool.trace.flow.flow import Flow
from growtool.trace.fused_norms import with_fused_norms
from growtool.trace.known import on_meta
from growtool.trace.module_calls import exits_of
from growtool.trace.result import Trace
from growtool.trace.steps import ForwardPass
from growtool.trace.tape import Tape

_STATISTICS = ("running_mean", "running_var")  # buffers of norms, one number for each channel
_IMAGES = 2  # images in the batch that is traced; the axis of a single one would have no channel group

Run = Callable[[nn.Module, Inputs], tuple[Tensor, ...]]


def trace_built(spec: ModelSpec, model: nn.Module) -> Trace:
    """Return the trace of a model that a library has built, by one forward pass on the meta device.

    Args:
        spec: names the library, which makes the inputs and runs the model.
        model: in eval mode, and left as it is; parameters may be on meta, buffers have to be real, as their values
            decide what may grow.

    Raises:
        CheckpointError: the model cannot run on such inputs.
    """
    library = library_of(spec)
    inputs, may_grow = meta_inputs(spec, model, _IMAGES), library.outputs_may_grow(model)
    return _traced(model, inputs, library.run, library.words, outputs_may_grow=may_grow)


def trace_model(model: nn.Module, *input_sizes: tuple[int, ...], outputs_may_grow: bool = False) -> Trace:
    """Return the trace of any module that is called with tensors of floating-point numbers.

    Args:
        model: as for `trace_built`.
        input_sizes: the size of each tensor without the batch, such as (channels, height, width).
        outputs_may_grow: whether the outputs are features, which become wider with the model.

    Raises:
        CheckpointError: the model cannot run on such tensors.
    """
    inputs = Inputs({str(i): torch.zeros((_IMAGES, *size), device="meta") for i, size in enumerate(input_sizes)})
    return _traced(model, inputs, _by_position, Words(), outputs_may_grow=outputs_may_grow)


def _by_position(model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
    return leaves_of(model(*inputs.tensors.values()))


def _traced(model: nn.Module, inputs: Inputs, run: Run, words: Words, *, outputs_may_grow: bool) -> Trace:
    buffers = dict(model.named_buffers(remove_duplicate=False))
    # running statistics are as free to grow as the gain beside them; any other buffer is a constant
    constants = {name: constant_axes(b) for name, b in buffers.items() if not name.endswith(_STATISTICS)}
    replica = copy.deepcopy(model).to("meta").eval()
    # what a function remembers from an earlier pass would be a constant in this one, and no operations
    empty_caches(replica)
    tape = Tape()
    named, stored = _register(tape, replica, constants)
    for tensor in inputs.tensors.values():
        count, *size = tensor.shape
        tape.put(tensor, Value((new_axis(count), *new_axes(size, words.the_input))))
    tape.watch(replica)
    try:
        # The mode entered last meets a call first. The first two work on functions of torch. The tape meets each
        # operation of aten before `on_meta` does, so that it does not see how known values are computed.
        with torch.no_grad(), Canonical(), tape.recurrent, on_meta(), tape:
            outputs = run(replica, inputs)
    except Exception as error:
        raise CheckpointError(f"{type(model).__name__}: the forward pass {_failed(error, inputs, words)}") from error
    for output in outputs:
        tape.read(output)
    if not outputs_may_grow:
        for output in outputs:
            for axis in tape.axes(output)[1:]:
                fix(axis, MODEL_OUTPUT)
    return _collect(tape, named, stored, tuple(map(id, inputs.tensors.values())), tuple(map(id, outputs)))


def _failed(error: Exception, inputs: Inputs, words: Words) -> str:
    """Return why a forward pass failed, as the end of a sentence."""
    on_inputs = f"{words.sized(inputs.sizes)}{words.in_axes}"
    # what torch raises where values of a meta tensor are asked for depends on the operation
    if isinstance(error, NotImplementedError) or "on meta tensors" in str(error):
        return (
            f"asks, on {on_inputs}, for numbers that depend on its input or its weights to decide what to compute, "
            "expected one that does the same whatever they are; growtool cannot follow this model"
        )
    return f"failed on {on_inputs}: {type(error).__name__}: {error}; {words.refit}"


def _register(
    tape: Tape, model: nn.Module, constants: Mapping[str, Axes]
) -> tuple[dict[str, Axes], dict[int, tuple[str, ...]]]:
    """Tell the tape the axes of every parameter and buffer.

    A shared tensor has one layout under all of its names. Each of the names owns the dimensions of a parameter.

    Returns:
        Name -> axes; and the number of each tensor -> all of its names.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    registered = parameters | dict(model.named_buffers(remove_duplicate=False))
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in registered.items():
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    for shared in names.values():
        name, tensor = shared[0], registered[shared[0]]
        alone = name if len(shared) == 1 else None
        if name in parameters:
            axes = tuple(new_axis(n, None, frozenset((s, i) for s in shared)) for i, n in enumerate(tensor.shape))
            tape.put(tensor, Value(axes, frozenset(shared), Flow(zeroed_by=frozenset(shared)), alone))
        else:
            axes = constants.get(name) or new_axes(tensor.shape)
            tape.put(tensor, Value(axes, frozenset([name]), stored=alone))
    return {name: tape.axes(tensor) for name, tensor in registered.items()}, names


def _collect(
    tape: Tape,
    named: Mapping[str, Axes],
    stored: Mapping[int, tuple[str, ...]],
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
) -> Trace:
    """Return what the tape has seen, with the bindings of all groups followed.

    Args:
        tape: of the whole pass.
        named: name of a parameter or buffer -> its axes.
        stored, inputs, outputs: as in `ForwardPass`.
    """
    # a group that was marked at a contraction may stand for others since
    consumers = frozenset(
        (group, name, dim) for marked, (name, dim) in tape.consumers for group in groups_on(((marked,),))
    )  # fmt: skip
    tensors = {name: tuple(map(resolve, axes)) for name, axes in named.items()}
    layouts = {number: value.axes for number, value in tape.known.items()}
    made_of = {number: value.params for number, value in tape.known.items() if value.params is not None}
    return Trace(
        tensors=tensors,
        consumers=consumers,
        signatures={path: tuple(entries) for path, entries in tape.signatures.items()},
        exits=exits_of(tape.calls),
        scaled={name: params for name, params in tape.scaled.items() if params},
        norm_eps=tape.norm_eps,
        received_activation={path: name for path, name in tape.received_activation.items() if name},
        infinite=frozenset(tape.infinite),
        read_in_several_ways=frozenset(name for name, uses in tape.uses.items() if len(uses) > 1),
        unknown=dict(tape.unknown),
        forward=ForwardPass(
            steps=with_fused_norms(tape.steps, layouts, made_of),
            raw=tuple(tape.steps),
            calls=tuple(tape.calls),
            layouts=layouts,
            made_of=made_of,
            stored=stored,
            inputs=inputs,
            outputs=outputs,
        ),
    )
