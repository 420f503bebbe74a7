"""What operations make of the factors of their operands: one rule for each kind of operation.

A rule returns the factors of the first result, or of all results in a list; what it requires of the operands' factors
goes to `scales.values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from growtool.prove.scales import products
from growtool.prove.scales.scale_pass import JointOp, ScalePass
from growtool.prove.scales.values import Factors, along, moved, simplified
from growtool.trace.reading.norms import NORMS, group_axis, number_added
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import (
    Kind,
    divisor_correction,
    gain_and_shift,
    is_homogeneous,
    is_linear_per_channel,
    reduced_dims,
    takes_batch_statistics,
)

Rule = Callable[[ScalePass, Step], "Factors | list[Factors]"]


def follow(scales: ScalePass, step: Step) -> None:
    """Apply the rule of one operation, and keep the factors of its results."""
    factors = _RULES.get(step.op.kind, _unscaled)(scales, step)
    results = factors if isinstance(factors, list) else [factors, *[0] * (len(step.outs) - 1)]
    # A tensor that shares memory with what was written in place is part old, part new: one factor for both.
    for number in step.overwritten:
        scales.values.require_equal(*map(scales.values.require_uniform, (scales.of(number), results[0])))
    scales.factors.update(zip(step.outs, results, strict=False))


def _unscaled(scales: ScalePass, step: Step) -> Factors:
    """Any operation without a rule passes no factor on."""
    scales.require_unscaled(step, step.ins)
    return 0


def _reduced(scales: ScalePass, step: Step) -> Factors:
    """A function of all values along some dimensions."""
    x = step.args[0].number
    kind = "variance by N - 1" if step.op.kind is Kind.VARIANCE and divisor_correction(step) else step.name
    scales.note_joint(kind, step, x, reduced_dims(step, len(scales.shape(x))))
    if step.op.kind is Kind.MEAN:
        return _windowed(scales, step)
    return _unscaled(scales, step)


def _created(scales: ScalePass, step: Step) -> Factors:
    """New values, which no factor reaches; the first argument gives no more than their shape."""
    scales.require_unscaled(step, (leaf.number for leaf in step.args[1:] if isinstance(leaf, Ref)))
    return 0


def _moved(scales: ScalePass, step: Step) -> Factors | list[Factors]:
    """Values are moved, or summed and scaled alike in each channel."""
    dtype = step.kwargs.get("dtype")
    if dtype is not None and not dtype.is_floating_point:  # rounding passes no factor on
        return _unscaled(scales, step)
    x, *others = step.ins
    scales.require_unscaled(step, others)
    factors = scales.of(x)
    if isinstance(factors, int):
        return [factors] * len(step.outs)
    if step.op.replays and not others:
        return moved(step, {x: scales.of_each_value(x)})
    return [scales.values.require_uniform(factors)] * len(step.outs)


def _pointwise(scales: ScalePass, step: Step) -> Factors:
    """A homogeneous function passes a factor on; the columns of a weight stay split only if it is linear."""
    if len(step.ins) > 1 or not (is_homogeneous(step) or is_linear_per_channel(step)):
        return _unscaled(scales, step)
    if not is_linear_per_channel(step):
        scales.note_transformed(step, step.ins)
    return scales.of(step.ins[0])


def _windowed(scales: ScalePass, step: Step) -> Factors:
    """The same function over windows or padding, where all values need one factor."""
    return scales.values.require_uniform(_pointwise(scales, step))


def _joined(scales: ScalePass, step: Step) -> Factors:
    first, *others = map(scales.of, step.ins)
    if all(isinstance(factors, int) and factors == first for factors in (first, *others)):
        return first
    join = torch.stack if step.name == "stack" else torch.cat
    return simplified(join([scales.of_each_value(number) for number in step.ins], step.arg(1, "dim", 0)))


def _overwritten(scales: ScalePass, step: Step) -> Factors:
    source = step.args[1].number
    factors = scales.of(source)
    return factors if scales.shape(source) == scales.shape(step.outs[0]) else scales.values.require_uniform(factors)


def _added(scales: ScalePass, step: Step) -> Factors:
    if not all(isinstance(leaf, Ref) for leaf in step.args[:2]):
        return _with_number(scales, step)
    return scales.values.require_equal(*(scales.of(leaf.number) for leaf in step.args[:2]))


def _with_number(scales: ScalePass, step: Step) -> Factors:
    """A number is added to a tensor: no factor passes, but for a gain `1 + w`, which may be multiplied as a whole.

    The parameter w then becomes `c (1 + w) - 1` (`Rewrite.offset`), so nothing else may read it.
    """
    added = number_added(step)
    if added == 0:  # Python's `sum` begins with 0
        return scales.of(step.ins[0])
    name = None if added is None else scales.offset_parameter(step)
    if name is None or added is None:
        return _unscaled(scales, step)
    scales.offsets[name] = added
    if any(consumed == name for _, consumed, _ in scales.trace.consumers):
        scales.note_transformed(step, step.ins)
    return scales.of(step.ins[0])


def _multiplied(scales: ScalePass, step: Step) -> Factors:
    a, b = step.args[:2]
    if step.kwargs or not isinstance(a, Ref):  # division that rounds, or of a number by a tensor
        return _unscaled(scales, step)
    if not isinstance(b, Ref):
        return scales.values.product(scales.of(a.number), scales.number(step, lambda multiply: multiply.args[1]))
    scales.note_product_of_weights(step, a.number, b.number)
    return scales.values.product(scales.of(a.number), scales.of(b.number), -1 if step.name == "div" else 1)


def _normed(scales: ScalePass, step: Step) -> Factors:
    """A norm passes no factor on, because of its eps; its result is as large as its gain and its shift."""
    gain, shift = gain_and_shift(step)
    others = set(step.ins) - {leaf.number for leaf in (gain, shift) if leaf is not None}
    scales.require_unscaled(step, [step.args[0].number])
    scales.values.require_one(*map(scales.of, others))  # running statistics are those of the source
    of_gain = 0 if gain is None else scales.of(gain.number)
    factors = scales.values.product(of_gain, _over_normed(scales, step))
    if shift is not None:
        factors = scales.values.require_equal(factors, scales.of(shift.number))
    of_second = step.op.kind in (Kind.BATCH_NORM, Kind.GROUP_NORM)  # channels stand second, not last
    return along(factors, len(scales.shape(step.outs[0])) - 2) if of_second else factors


def _over_normed(scales: ScalePass, step: Step) -> int:
    """Note the channels that a norm runs over, and return the factor that copies bring in there."""
    x, kind = step.args[0].number, step.op.kind
    ndim = len(scales.shape(x))
    if kind is Kind.VARIANCE_NORM:
        return scales.over_variance(step, scales.axis(x, -1), step.args[3])
    if kind is Kind.GROUP_NORM:
        scales.joint.setdefault(JointOp("group_norm", step.module, group_axis(step, scales.trace.forward)), [])
    elif kind is not Kind.BATCH_NORM:
        scales.note_joint(kind.name.lower(), step, x, range(ndim - len(step.args[1]), ndim))
    elif takes_batch_statistics(step):
        scales.note_joint("batch_norm", step, x, [dim for dim in range(ndim) if dim != 1])
    return 0


def _softmax(scales: ScalePass, step: Step) -> Factors:
    """Over m copies of each value every result is 1/m of what it was."""
    scales.require_unscaled(step, step.ins)
    over = scales.over_jointly("softmax", step, scales.axis(step.ins[0], step.arg(1, "dim")), -1)
    return scales.values.require_uniform(over)


def _log_softmax(scales: ScalePass, step: Step) -> Factors:
    """Over m copies of each value every result is less by log m, for which no factor makes up."""
    scales.note_joint("softmax", step, step.ins[0], [step.arg(1, "dim")])
    return _unscaled(scales, step)


def _summed(scales: ScalePass, step: Step) -> Factors:
    """A sum over m copies is m times as large; a length, the p-th root of a sum of p-th powers, m^(1/p) times."""
    order = 1 if is_linear_per_channel(step) else step.arg(1, "ord", 2)
    if not isinstance(order, int | float) or not 0 < order < math.inf:
        return _reduced(scales, step)
    axes = scales.trace.forward.axes(step.ins[0])
    factors: Factors = scales.values.require_uniform(scales.of(step.ins[0]))
    for dim in reduced_dims(step, len(axes)):
        over = scales.over_jointly(step.name, step, axes[dim], 1 / order)
        factors = scales.values.product(factors, scales.values.require_uniform(over))
    if order != 1:
        scales.note_transformed(step, step.ins)
    return factors


_RULES: dict[Kind, Rule] = {
    **dict.fromkeys(
        (Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.EXPAND, Kind.STRIDE, Kind.PICK,
         Kind.SPLIT, Kind.LOOKUP, Kind.DROPOUT),
        _moved,
    ),
    Kind.MOVE: lambda scales, step: (_moved if is_linear_per_channel(step) else _unscaled)(scales, step),
    Kind.JOIN: _joined,
    Kind.OVERWRITE: _overwritten,
    **dict.fromkeys((Kind.CREATE, Kind.FILL, Kind.DRAW), _created),
    **dict.fromkeys((Kind.PAD, Kind.POOL, Kind.RESAMPLE, Kind.EXTREME), _windowed),
    Kind.POINTWISE: _pointwise,
    Kind.ADD: _added,
    Kind.MULTIPLY: _multiplied,
    Kind.PRODUCT: products.multiplied,
    Kind.CONVOLUTION: products.convolved,
    Kind.ATTENTION: products.attended,
    **dict.fromkeys((*NORMS, Kind.GROUP_NORM, Kind.BATCH_NORM), _normed),
    Kind.SOFTMAX: _softmax,
    Kind.LOG_SOFTMAX: _log_softmax,
    Kind.SUM: _summed,
    **dict.fromkeys((Kind.MEAN, Kind.VARIANCE, Kind.REDUCE), _reduced),
}  # fmt: skip
