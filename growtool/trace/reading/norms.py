"""Norms in a trace: the tensors that they normalise, their gains and shifts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from growtool.trace.axes import Axis
from growtool.trace.result import Trace
from growtool.trace.steps import ForwardPass, Ref, Step
from growtool.trace.table.kinds import Kind, gain_and_shift
from growtool.trace.unify import factor_out

NormName = Literal["LayerNorm", "RMSNorm", "SimpleNorm"]
NORMS: dict[Kind, NormName] = {
    Kind.LAYER_NORM: "LayerNorm",
    Kind.RMS_NORM: "RMSNorm",
    Kind.VARIANCE_NORM: "SimpleNorm",
}


@dataclass(frozen=True, slots=True)
class NormCall:
    """A norm over the channels of each position.

    Attributes:
        kind: the name of such norms.
        x: number of the tensor that it normalises.
        dims: the dimensions of x that it runs over.
        gain, shift: numbers of the tensors that it multiplies by and adds, None without one.
        eps: the number that it adds to the variance or mean square; None for torch's default.
    """

    kind: NormName
    x: int
    dims: tuple[int, ...]
    gain: int | None
    shift: int | None
    eps: float | None


def norm_call(step: Step, forward: ForwardPass) -> NormCall | None:
    """Return a step as a norm over the channels of each position; None for any other step.

    A GroupNorm is no such norm: it takes one mean over all positions of an image.
    """
    kind = NORMS.get(step.op.kind)
    if kind is None or step.op.eps is None:
        return None
    x = step.args[0].number
    ndim = len(forward.layouts[x])
    gain, shift = gain_and_shift(step)
    eps = step.args[step.op.eps]
    return NormCall(
        kind=kind,
        x=x,
        dims=tuple(range(ndim - len(step.args[1]), ndim)),
        gain=None if gain is None else gain.number,
        shift=None if shift is None else shift.number,
        eps=None if eps is None else float(eps),
    )


def is_closed(step: Step, is_zero: Callable[[int], bool]) -> bool:
    """Return whether a norm gives zeros whatever it reads: its gain is zero, and so is its shift if it has one.

    Without a gain the normalised values remain.
    """
    gain, shift = gain_and_shift(step)
    return gain is not None and is_zero(gain.number) and (shift is None or is_zero(shift.number))


def parameter_of(gain: int, forward: ForwardPass) -> tuple[tuple[str, ...], float] | None:
    """Return the names of the parameter that a gain is, and the number that the model adds to it, as in `1 + w`.

    None if the gain is computed in another way.
    """
    if gain in forward.stored:
        return forward.stored[gain], 0.0
    step = forward.made_by.get(gain)
    added = None if step is None else number_added(step)
    names = None if step is None or added is None else forward.stored.get(step.ins[0])
    return None if names is None or added is None else (names, added)


def number_added(step: Step) -> float | None:
    """Return the number that a step adds to a tensor; None if it does not add a number."""
    adds_to_tensor = step.name == "add" and not step.kwargs and isinstance(step.args[0], Ref)
    return float(step.args[1]) if adds_to_tensor and isinstance(step.args[1], int | float) else None


def group_axis(step: Step, forward: ForwardPass) -> Axis:
    """Return the axis of the channels of one group, for a step that is a GroupNorm."""
    channels, groups = step.args[4], step.args[6]
    return factor_out(forward.axes(step.args[0].number)[1], channels // groups)[1]


def multipliers(trace: Trace) -> frozenset[str]:
    """Return the names of parameters that only multiply activations (gains, scales), and of running variances."""
    multiplying, others = set[str](), set[str]()
    for step, number in trace.forward.uses:
        names = trace.forward.made_of[number]
        (multiplying if _multiplies(step, number) else others).update(names)
    return frozenset(multiplying - others)


def _multiplies(step: Step, number: int) -> bool:
    """Return whether a step multiplies its other operand by a tensor, or divides by the root of it."""
    if step.op.kind in NORMS:
        places = step.op.affine[:1]
    elif step.op.kind is Kind.BATCH_NORM:
        places = (1, 4)  # weight, running_var
    else:
        return step.name == "mul"
    return any(step.args[i] == Ref(number) for i in places if i < len(step.args))


def norm_shifts(trace: Trace) -> frozenset[str]:
    """Return the names of the parameters that norms over channels add."""
    shifts = set[str]()
    for step in trace.forward.steps:
        norm = norm_call(step, trace.forward)
        if norm is not None and norm.shift is not None:
            shifts.update(trace.forward.stored.get(norm.shift, ()))
    return frozenset(shifts)
