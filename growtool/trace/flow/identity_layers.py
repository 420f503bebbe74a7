"""Layers that can be made to pass on what they receive: which operations are such layers, with which parameters.

A convolution or linear layer with as many outputs as inputs can hold the identity, if it keeps the number of places;
a BatchNorm in evaluation can undo itself; a vector that scales channels can be one. `algebra.identity_init` says with
which values.
"""

from __future__ import annotations

from torch import Tensor

from growtool.trace.call import Call, Observer
from growtool.trace.flow.flow import Params
from growtool.trace.table.kinds import Kind

_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def identity_layer(tape: Observer, call: Call) -> Params | None:
    """The parameters and buffers of the layer that an operation on one activation is; None if it cannot pass it on."""
    if call.op.running:
        return _norm(tape, call)
    if call.op.kind is Kind.CONVOLUTION:
        weight, bias = call.args[1:3]
        return _layer(tape, weight, bias) if _keeps_places(call) else None
    if call.name == "addmm" and not call.kwargs:
        bias, weight = call.args[0], call.args[2]
    elif call.name == "mm":
        bias, weight = None, call.args[1]
    elif call.name in ("add", "mul"):
        return _vector(tape, call)
    else:
        return None
    square = weight.ndim == 2 and weight.shape[0] == weight.shape[1]
    return _layer(tape, weight, bias) if square else None


def _vector(tape: Observer, call: Call) -> Params | None:
    """The bias that is added on its own, as torch does where a linear layer reads a cut of a tensor; or a scale."""
    names = [tape.stored_name(tensor) for tensor in call.ins]
    name = next((name for name in names if name is not None), None)
    if name is None or len(names) != 2 or call.arg(2, "alpha", 1) != 1:
        return None
    own = name.rpartition(".")[2]
    stream = call.ins[1 if names[0] == name else 0]
    fits = name in tape.vectors and call.outs[0].shape == stream.shape
    return frozenset([name]) if fits and (own == "bias" if call.name == "add" else own not in _STATISTICS) else None


def _keeps_places(call: Call) -> bool:
    """Whether the kernel is odd, the stride 1, the padding as much as that takes, and the groups one or every one."""
    x, weight, _, stride, padding, dilation, transposed, _, groups = call.args[:9]
    channels = x.shape[1]
    return (
        not transposed
        and groups in (1, channels)
        and tuple(weight.shape[:2]) == (channels, channels // groups)
        and all(
            size % 2 == 1 and step == 1 and 2 * pad == spread * (size - 1)
            for size, step, pad, spread in zip(weight.shape[2:], stride, padding, dilation, strict=True)
        )
    )


def _layer(tape: Observer, weight: Tensor, bias: Tensor | None) -> Params | None:
    names = [tape.stored_name(weight), *([] if bias is None else [tape.stored_name(bias)])]
    return _all(names, ("weight", "bias"))


def _norm(tape: Observer, call: Call) -> Params | None:
    if call.name == "native_batch_norm" and call.args[5] is not False:
        return None
    if any(argument is None for argument in call.args[1:5]):
        return None
    names = [tape.stored_name(argument) for argument in call.args[1:5]]
    found = _all(names, _STATISTICS)
    if found is not None:
        tape.norm_eps.update(dict.fromkeys(found, float(call.args[-1])))
    return found


def _all(names: list[str | None], expected: tuple[str, ...]) -> Params | None:
    """The names, if they are those torch gives to such tensors of one module: values are chosen by them."""
    known = [name for name in names if name is not None]
    modules = {name.rpartition(".")[0] for name in known}
    own = tuple(name.rpartition(".")[2] for name in known)
    return frozenset(known) if len(known) == len(names) and len(modules) == 1 and own == expected[: len(own)] else None
