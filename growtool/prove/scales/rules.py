"""What operations make of the factors of their operands: one rule for each kind of operation.

A rule returns the factors of the first result, or of all results in a list; what it requires goes to `values`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from growtool.prove.scales.scale_pass import JointOp, ScalePass
from growtool.prove.scales.values import Factors, moved, simple
from growtool.trace.reading.factors import Product, product_of
from growtool.trace.reading.norms import NORMS, group_axis, number_added
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, is_homogeneous, is_linear_per_channel
from growtool.trace.table.reductions import divisor_correction, reduced_dims, takes_batch_statistics

Rule = Callable[[ScalePass, Step], "Factors | list[Factors]"]


def take(run: ScalePass, step: Step) -> None:
    """Take in one operation."""
    found = _RULES.get(step.op.kind, _unscaled)(run, step)
    results = found if isinstance(found, list) else [found, *[0] * (len(step.outs) - 1)]
    for number in step.overwritten:  # of what shares memory, a part is written anew
        run.values.alike(run.values.one(run.of(number)), run.values.one(results[0]))
    run.known.update(zip(step.outs, results, strict=False))


def _unscaled(run: ScalePass, step: Step) -> Factors:
    """Anything else takes no factor."""
    run.nonlinear(step, step.ins)
    return 0


def _reduced(run: ScalePass, step: Step) -> Factors:
    """A function of all values along some dimensions."""
    x = step.args[0].number
    kind = "variance by N - 1" if step.op.kind is Kind.VARIANCE and divisor_correction(step) else step.name
    run.jointly(kind, step, x, reduced_dims(step, len(run.shape(x))))
    if step.op.kind is Kind.MEAN:
        return _windowed(run, step)
    return _unscaled(run, step)


def _created(run: ScalePass, step: Step) -> Factors:
    run.nonlinear(step, (leaf.number for leaf in step.args[1:] if isinstance(leaf, Ref)))
    return 0


def _moved(run: ScalePass, step: Step) -> Factors | list[Factors]:
    """Values are moved, or summed and scaled alike in each channel."""
    kind = step.kwargs.get("dtype")
    if kind is not None and not kind.is_floating_point:
        return _unscaled(run, step)
    x, *others = step.ins
    run.nonlinear(step, others)
    factors = run.of(x)
    if isinstance(factors, int):
        return [factors] * len(step.outs)
    if step.op.replays and not others:
        return moved(step, {x: run.whole(x)})
    return [run.values.one(factors)] * len(step.outs)


def _pointwise(run: ScalePass, step: Step) -> Factors:
    """What is homogeneous passes a factor on; a split with noise, or an uneven one, only what is linear."""
    if len(step.ins) > 1 or not (is_homogeneous(step) or is_linear_per_channel(step)):
        return _unscaled(run, step)
    if not is_linear_per_channel(step):
        run.transforms(step, step.ins)
    return run.of(step.ins[0])


def _windowed(run: ScalePass, step: Step) -> Factors:
    """The same over several values; a maximum returns places, too."""
    return run.values.one(_pointwise(run, step))


def _joined(run: ScalePass, step: Step) -> Factors:
    first, *others = map(run.of, step.ins)
    if all(isinstance(own, int) and own == first for own in (first, *others)):
        return first
    join = torch.stack if step.name == "stack" else torch.cat
    return simple(join([run.whole(number) for number in step.ins], step.arg(1, "dim", 0)))


def _overwritten(run: ScalePass, step: Step) -> Factors:
    source = step.args[1].number
    return run.of(source) if run.shape(source) == run.shape(step.outs[0]) else run.values.one(run.of(source))


def _added(run: ScalePass, step: Step) -> Factors:
    if not all(isinstance(leaf, Ref) for leaf in step.args[:2]):
        return _with_number(run, step)
    return run.values.alike(*(run.of(leaf.number) for leaf in step.args[:2]))


def _with_number(run: ScalePass, step: Step) -> Factors:
    """A number is added: to a parameter alone, as in a gain `1 + w`, it is as if the sum was the parameter."""
    added = number_added(step)
    if added == 0:  # where Python's `sum` begins
        return run.of(step.ins[0])
    name = None if added is None else run.offset(step)
    if name is None or added is None:
        return _unscaled(run, step)
    run.offsets[name] = added
    if any(consumed == name for _, consumed, _ in run.trace.consumers):
        run.transforms(step, step.ins)
    return run.of(step.ins[0])


def _multiplied(run: ScalePass, step: Step) -> Factors:
    a, b = step.args[:2]
    if step.kwargs or not isinstance(a, Ref):  # rounded, or one over it
        return _unscaled(run, step)
    if not isinstance(b, Ref):
        return run.values.times(run.of(a.number), run.number(step, lambda one: one.args[1]))
    run.apart(step, a.number, b.number)
    return run.values.times(run.of(a.number), run.of(b.number), -1 if step.name == "div" else 1)


def _product(run: ScalePass, step: Step) -> Factors:
    """A matrix product: one factor along what is summed over."""
    product = product_of(step, run.trace.forward)
    assert product is not None
    made_of = run.trace.forward.made_of
    a, b = map(run.of, product.operands)
    ranks = [len(run.shape(number)) for number in product.operands]
    inner = -min(ranks[1], 2)
    over = _over(run, step, product)
    if made_of.get(product.operands[0]) and not made_of.get(product.operands[1]):
        a = run.values.times(a, over)
    else:
        b = run.values.times(b, over if isinstance(over, int) or inner == -1 else over[:, None])
    a, b = run.values.summed(a, [-1]), run.values.summed(b, [inner])
    a = a if isinstance(a, int) or ranks[1] == 1 else a.unsqueeze(-1)
    b = b if isinstance(b, int) or ranks[0] == 1 else b.unsqueeze(-2)
    factors = run.values.times(a, b)
    if step.kwargs.keys() & {"alpha", "beta"}:
        factors = run.values.times(factors, _alpha(run, step))
    return factors if product.bias is None else run.values.alike(factors, run.of(product.bias))


def _alpha(run: ScalePass, step: Step) -> Factors:
    """What a product with a bias is multiplied by, where the bias is multiplied as in the source."""

    def told(one: Step) -> float | None:
        return one.kwargs.get("alpha", 1) if one.kwargs.get("beta", 1) == step.kwargs.get("beta", 1) else None

    return run.number(step, told)


def _over(run: ScalePass, step: Step, product: Product) -> Factors:
    """What a sum over copied channels multiplies by; a weight that is split among them divides by the same."""
    left, right = product.summed
    for number, axis in zip(reversed(product.operands), (right, left), strict=True):
        if run.trace.forward.made_of.get(number):
            return run.weighted(step, number, axis)
    factors = run.joint_op("product", step, left)
    if left != right:
        run.values.unscaled(factors)
    return factors


def _convolved(run: ScalePass, step: Step) -> Factors:
    product = product_of(step, run.trace.forward)
    assert product is not None
    x, W = product.operands
    transposed, groups, out = step.args[6], step.args[8], run.shape(step.outs[0])
    channels, own, over = run.of(x), run.of(W), _over(run, step, product)
    summed, kept = (0, 1) if transposed else (1, 0)
    if groups == 1 or not transposed:
        after = len(run.shape(W)) - summed - 1
        own = run.values.times(own, over if isinstance(over, int) else over.reshape(-1, *[1] * after))
        own = run.values.summed(own, [dim - len(run.shape(W)) for dim in range(len(run.shape(W))) if dim != kept])
    else:
        own = run.values.times(run.values.one(own), run.values.one(over))
    if isinstance(channels, torch.Tensor) and groups == run.shape(x)[1] and not transposed:  # channel by channel
        rank = len(run.shape(x))
        channels = run.values.summed(channels, [dim - rank for dim in range(rank) if dim != 1])
        channels = channels if isinstance(channels, int) else channels.repeat_interleave(out[1] // groups)
    else:
        channels = run.values.one(channels)
    factors = run.values.times(channels, own)
    factors = factors if product.bias is None else run.values.alike(factors, run.of(product.bias))
    return factors if isinstance(factors, int) else factors.reshape(1, -1, *[1] * (len(out) - 2))


def _attended(run: ScalePass, step: Step) -> Factors:
    """Fused attention: the scale in it depends on the head size, so nothing makes up for larger heads."""
    query, key, value, *others = step.ins
    q, k, v = (run.values.one(run.of(number)) for number in (query, key, value))
    larger = run.joint_op("product", step, run.axis(query, -1))
    run.values.unscaled(run.values.times(q, k), larger)
    run.nonlinear(step, others)
    run.jointly("softmax", step, key, [-2])
    return v


def _normed(run: ScalePass, step: Step) -> Factors:
    """A norm takes no factor, on account of its eps; its result is as large as gain and shift."""
    given = [step.args[at] for at in step.op.affine if len(step.args) > at]
    affine = [run.of(leaf.number) if isinstance(leaf, Ref) else None for leaf in given]
    others = set(step.ins) - {leaf.number for leaf in given if isinstance(leaf, Ref)}
    run.nonlinear(step, [step.args[0].number])
    run.values.unscaled(*map(run.of, others))  # running statistics are those of the source
    gain = affine[0] if affine and affine[0] is not None else 0
    gain = run.values.times(gain, _note_norm(run, step))
    factors = gain if len(affine) < 2 or affine[1] is None else run.values.alike(gain, affine[1])
    if isinstance(factors, int) or step.op.kind not in (Kind.BATCH_NORM, Kind.GROUP_NORM):
        return factors
    return factors.reshape(1, -1, *[1] * (len(run.shape(step.outs[0])) - 2))


def _note_norm(run: ScalePass, step: Step) -> int:
    """Note what a norm runs over, and return the factor that copies bring in there."""
    x, kind = step.args[0].number, step.op.kind
    ndim = len(run.shape(x))
    if kind is Kind.VARIANCE_NORM:
        return run.rescaled(step, run.axis(x, -1), step.args[3])
    if kind is Kind.GROUP_NORM:
        run.joint.setdefault(JointOp("group_norm", step.module, group_axis(step, run.trace.forward)), [])
    elif kind is not Kind.BATCH_NORM:
        run.jointly(kind.name.lower(), step, x, range(ndim - len(step.args[1]), ndim))
    elif takes_batch_statistics(step):
        run.jointly("batch_norm", step, x, [dim for dim in range(ndim) if dim != 1])
    return 0


def _softmax(run: ScalePass, step: Step) -> Factors:
    """Over m copies each weight is 1/m of what it was."""
    run.nonlinear(step, step.ins)
    return run.values.one(run.joint_op("softmax", step, run.axis(step.ins[0], step.arg(1, "dim")), -1))


def _log_softmax(run: ScalePass, step: Step) -> Factors:
    """Over m copies each is less by log m."""
    run.jointly("softmax", step, step.ins[0], [step.arg(1, "dim")])
    return _unscaled(run, step)


def _summed(run: ScalePass, step: Step) -> Factors:
    """A sum over m copies is m times as large; a length, the p-th root of a sum of p-th powers, m^(1/p) times."""
    order = 1 if is_linear_per_channel(step) else step.arg(1, "ord", 2)
    if not isinstance(order, int | float) or not 0 < order < math.inf:
        return _reduced(run, step)
    axes = run.trace.forward.axes(step.ins[0])
    factors: Factors = run.values.one(run.of(step.ins[0]))
    for dim in reduced_dims(step, len(axes)):
        over = run.joint_op(step.name, step, axes[dim], 1 / order)
        factors = run.values.times(factors, run.values.one(over))
    if order != 1:
        run.transforms(step, step.ins)
    return factors


_RULES: dict[Kind, Rule] = {
    **dict.fromkeys(
        (Kind.RESHAPE, Kind.SAME, Kind.PERMUTE, Kind.TRANSPOSE, Kind.SQUEEZE, Kind.EXPAND, Kind.STRIDE, Kind.PICK,
         Kind.SPLIT, Kind.LOOKUP, Kind.DROPOUT),
        _moved,
    ),
    Kind.MOVE: lambda run, step: _moved(run, step) if is_linear_per_channel(step) else _unscaled(run, step),
    Kind.JOIN: _joined,
    Kind.OVERWRITE: _overwritten,
    **dict.fromkeys((Kind.CREATE, Kind.FILL, Kind.DRAW), _created),
    **dict.fromkeys((Kind.PAD, Kind.POOL, Kind.RESAMPLE, Kind.EXTREME), _windowed),
    Kind.POINTWISE: _pointwise,
    Kind.ADD: _added,
    Kind.MULTIPLY: _multiplied,
    Kind.PRODUCT: _product,
    Kind.CONVOLUTION: _convolved,
    Kind.ATTENTION: _attended,
    **dict.fromkeys((*NORMS, Kind.GROUP_NORM, Kind.BATCH_NORM), _normed),
    Kind.SOFTMAX: _softmax,
    Kind.LOG_SOFTMAX: _log_softmax,
    Kind.SUM: _summed,
    **dict.fromkeys((Kind.MEAN, Kind.VARIANCE, Kind.REDUCE), _reduced),
}  # fmt: skip
