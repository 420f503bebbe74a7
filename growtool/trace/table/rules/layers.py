"""Rules for layers: convolutions, norms, pooling and resampling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from growtool.trace.axes import KERNEL_POSITION, ONE, SPATIAL_POSITION, Axis, fix, new_axes, new_axis, resolve
from growtool.trace.call import Axes, Call, Observer
from growtool.trace.unify import factor_out, unify


def convolution(tape: Observer, call: Call) -> Sequence[Axes]:
    """Contract the input channels with the weight's columns; the weight's rows are the output channels.

    A weight is [O, I / groups, *kernel], or [I, O / groups, *kernel] if transposed.
    """
    x, weight, bias, stride, padding, _, transposed, _, groups = call.args[:9]
    x_axes, w_axes = tape.axes(x), tape.axes(weight)
    for axis in w_axes[2:]:
        fix(axis, KERNEL_POSITION)
    # a pointwise convolution mixes no positions, so that these may be channels which grow
    pointwise = all(n == 1 for n in (*weight.shape[2:], *stride)) and not any(padding)
    if not pointwise:
        _fix_all(x_axes[2:])
    rows, columns = (w_axes[1], w_axes[0]) if transposed else (w_axes[0], w_axes[1])
    if groups > 1:
        rows = _grouped(tape, call, x_axes[1], rows, columns, groups, transposed)
    else:
        tape.contract(x, x_axes[1], weight, columns)
    if bias is not None:
        unify(rows, tape.axes(bias)[0])
    places = x_axes[2:] if pointwise else new_axes(call.outs[0].shape[2:], SPATIAL_POSITION)
    return [(x_axes[0], rows, *places)]


def _grouped(
    tape: Observer, call: Call, channels: Axis, rows: Axis, columns: Axis, groups: int, transposed: bool
) -> Axis:
    """Split the channels of input and weight into groups times channels of a group; return the output channels.

    The groups of input and weight become one, and so do the channels of a group that are summed over.
    """
    x, weight = call.args[:2]
    groups_of_input, inside = factor_out(channels, x.shape[1] // groups)
    if transposed:
        groups_of_weight, columns = factor_out(columns, weight.shape[0] // groups)
        unify(groups_of_input, groups_of_weight)
        tape.contract(x, inside, weight, columns)
        return resolve(((groups_of_input, rows),))
    tape.contract(x, inside, weight, columns)
    groups_of_weight, _ = factor_out(rows, weight.shape[0] // groups)
    unify(groups_of_input, groups_of_weight)
    return rows


def norm_over_last(tape: Observer, call: Call) -> Sequence[Axes]:
    """Unify gain and shift with the last dimensions, which a norm runs over; statistics have one position there."""
    axes, count = tape.axes(call.args[0]), len(call.args[1])
    affine = [tensor for tensor in call.args[2:4] if isinstance(tensor, Tensor)]
    for tensor in affine:
        for axis, affine_axis in zip(axes[-count:], tape.axes(tensor), strict=True):
            unify(axis, affine_axis)
    statistics = axes[:-count] + (ONE,) * count
    return [axes, *([statistics] * (len(call.outs) - 1))]


def group_norm(tape: Observer, call: Call) -> Sequence[Axes]:
    """Split the channels into groups times channels of a group, and unify them with gain and shift."""
    axes, channels, groups = tape.axes(call.args[0]), call.args[4], call.args[6]
    factor_out(axes[1], channels // groups)
    for tensor in call.args[1:3]:
        if tensor is not None:
            unify(axes[1], tape.axes(tensor)[0])
    statistics = [new_axes(out.shape, "statistics of a norm") for out in call.outs[1:]]
    return [axes, *statistics]


def batch_norm(tape: Observer, call: Call) -> Sequence[Axes]:
    """Unify the channels with gain, shift and running statistics."""
    x = call.args[0]
    axes = tape.axes(x)
    for tensor in call.args[1:5]:
        if isinstance(tensor, Tensor):
            unify(axes[1], tape.axes(tensor)[0])
    channels = x.shape[1]
    rest = [tuple(axes[1] if n == channels else new_axis(n) for n in out.shape) for out in call.outs[1:]]
    return [axes, *rest]


def resampling(tape: Observer, call: Call) -> Sequence[Axes]:
    """Fix the positions, and give the results new ones."""
    axes, count = tape.axes(call.args[0]), call.op.spatial
    _fix_all(axes[-count:])
    return [axes[:-count] + new_axes(out.shape[-count:], SPATIAL_POSITION) for out in call.outs]


def pixel_shuffle(tape: Observer, call: Call) -> Sequence[Axes]:
    """Turn [..., C r r, H, W] into [..., C, H r, W r]: the inner channels are positions, and fixed."""
    axes, factor = tape.axes(call.args[0]), call.arg(1, "upscale_factor")
    channels, positions = factor_out(axes[-3], factor * factor)
    _fix_all((positions, *axes[-2:]))
    return [(*axes[:-3], channels, *new_axes(call.outs[0].shape[-2:], SPATIAL_POSITION))]


def pixel_unshuffle(tape: Observer, call: Call) -> Sequence[Axes]:
    """Turn [..., C, H r, W r] into [..., C r r, H, W]: the inner channels are positions, and fixed."""
    axes, factor = tape.axes(call.args[0]), call.arg(1, "downscale_factor")
    _fix_all(axes[-2:])
    channels = resolve(((axes[-3], new_axis(factor * factor, SPATIAL_POSITION)),))
    return [(*axes[:-3], channels, *new_axes(call.outs[0].shape[-2:], SPATIAL_POSITION))]


def image_to_columns(tape: Observer, call: Call) -> Sequence[Axes]:
    """Turn [..., C, H, W] into [..., C k, windows], with k positions in a window; positions are fixed."""
    axes, out = tape.axes(call.args[0]), call.outs[0]
    _fix_all(axes[-2:])
    window = out.shape[-2] // call.args[0].shape[-3]
    places = new_axis(window, SPATIAL_POSITION), new_axis(out.shape[-1], SPATIAL_POSITION)
    return [(*axes[:-3], resolve(((axes[-3], places[0]),)), places[1])]


def columns_to_image(tape: Observer, call: Call) -> Sequence[Axes]:
    """Turn [..., C k, windows] into [..., C, H, W], with k positions in a window; positions are fixed."""
    axes, out = tape.axes(call.args[0]), call.outs[0]
    channels, window = factor_out(axes[-2], call.args[0].shape[-2] // out.shape[-3])
    _fix_all((window, axes[-1]))
    return [(*axes[:-2], channels, *new_axes(out.shape[-2:], SPATIAL_POSITION))]


def unfold(tape: Observer, call: Call) -> Sequence[Axes]:
    """Fix the positions of a dimension that is cut into windows; the last dimension counts those of a window."""
    axes, out = list(tape.axes(call.args[0])), call.outs[0]
    dim = call.arg(1, "dimension") % call.args[0].ndim
    fix(axes[dim], SPATIAL_POSITION)
    axes[dim] = new_axis(out.shape[dim], SPATIAL_POSITION)
    return [(*axes, new_axis(out.shape[-1], SPATIAL_POSITION))]


def _fix_all(axes: Axes) -> None:
    for axis in axes:
        fix(axis, SPATIAL_POSITION)
