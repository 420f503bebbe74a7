"""Layers that can be made the identity: which operations are such layers, and which parameters they have.

They are linear layers and convolutions with as many outputs as inputs that keep the number of positions, BatchNorms in
evaluation, which can undo their statistics, vectors that scale channels, and biases that are added on their own.
`algebra.identity_init` says which values make them the identity.
"""

from __future__ import annotations

from torch import Tensor

from growtool.trace.call import Call, Observer
from growtool.trace.flow.flow import Params
from growtool.trace.table.kinds import Kind, takes_batch_statistics

_OF_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")  # in the order of the arguments


def identity_layer(tape: Observer, call: Call) -> Params | None:
    """Return the parameters and buffers of a layer that can be the identity; None if the operation is no such layer.

    The operation has to be one on one activation.
    """
    if call.op.running:
        return _batch_norm(tape, call)
    if call.op.kind is Kind.CONVOLUTION:
        weight, bias = call.args[1:3]
        return _layer(tape, weight, bias) if _keeps_positions(call) else None
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
    """Return the name of a vector that scales channels, or of a bias that is added on its own; None for others.

    torch adds the bias on its own where a linear layer reads a slice of a tensor.
    """
    names = [tape.value(tensor).stored for tensor in call.ins]
    name = next((name for name in names if name is not None), None)
    if name is None or len(names) != 2 or call.arg(2, "alpha", 1) != 1:
        return None
    last_name = name.rpartition(".")[2]
    fits_name = last_name == "bias" if call.name == "add" else last_name not in _OF_BATCH_NORM
    activation = call.ins[1 if names[0] == name else 0]
    keeps_shape = name in tape.vectors and call.outs[0].shape == activation.shape
    return frozenset([name]) if keeps_shape and fits_name else None


def _keeps_positions(call: Call) -> bool:
    """Return whether a convolution can be the identity: by its channels, groups, kernel, stride and padding."""
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
    names = [tape.value(weight).stored, *([] if bias is None else [tape.value(bias).stored])]
    return _of_one_module(names, ("weight", "bias"))


def _batch_norm(tape: Observer, call: Call) -> Params | None:
    if takes_batch_statistics(call) or any(argument is None for argument in call.args[1:5]):
        return None
    values = [tape.value(argument) for argument in call.args[1:5]]
    for value in values:  # under all of its names, if it has several
        tape.norm_eps.update(dict.fromkeys(value.params or (), float(call.args[-1])))
    return _of_one_module([value.stored for value in values], _OF_BATCH_NORM)


def _of_one_module(names: list[str | None], expected: tuple[str, ...]) -> Params | None:
    """Return the names of the tensors of one module, if they end as torch calls such tensors; else None.

    The values that make the layer the identity are chosen by these endings later.
    """
    known = [name for name in names if name is not None]
    modules = {name.rpartition(".")[0] for name in known}
    endings = tuple(name.rpartition(".")[2] for name in known)
    fits = len(known) == len(names) and len(modules) == 1 and endings == expected[: len(endings)]
    return frozenset(known) if fits else None
