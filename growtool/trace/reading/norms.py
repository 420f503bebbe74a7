"""Norms over the channels of each position, in a trace: what they normalise, multiply by and add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from growtool.trace.axes import Axis
from growtool.trace.result import Trace
from growtool.trace.steps import ForwardPass, Ref, Step
from growtool.trace.table.kinds import Kind
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
        kind: what it is called.
        x: the tensor it normalises.
        dims: dimensions of x that hold channels.
        gain, shift: what it multiplies by and adds, None without.
        eps: what it adds to the variance; None where it has a default of its own.
    """

    kind: NormName
    x: int
    dims: tuple[int, ...]
    gain: int | None
    shift: int | None
    eps: float | None


def norm_call(step: Step, forward: ForwardPass) -> NormCall | None:
    """A step as a norm over the channels of each position, None for anything else.

    A GroupNorm is none: it has one mean for all positions, and so sees what centring takes off at each of them.
    """
    kind = NORMS.get(step.op.kind)
    if kind is None or step.op.eps is None:
        return None
    x, last = step.args[0].number, len(forward.layouts[step.args[0].number])
    gain, *shifts = (step.arg(place, name) for place, name in zip(step.op.affine, ("weight", "bias"), strict=False))
    shift, eps = next(iter(shifts), None), step.args[step.op.eps]
    return NormCall(
        kind=kind,
        x=x,
        dims=tuple(range(last - len(step.args[1]), last)),
        gain=gain.number if isinstance(gain, Ref) else None,
        shift=shift.number if isinstance(shift, Ref) else None,
        eps=None if eps is None else float(eps),
    )


def parameter_of(gain: int, forward: ForwardPass) -> tuple[tuple[str, ...], float] | None:
    """What a gain is made of: a parameter, by its names, and the number that the model adds to it, as in `1 + w`."""
    if gain in forward.stored:
        return forward.stored[gain], 0.0
    step = forward.made_by.get(gain)
    added = None if step is None else number_added(step)
    names = None if step is None or added is None else forward.stored.get(step.ins[0])
    return None if names is None or added is None else (names, added)


def number_added(step: Step) -> float | None:
    """What an operation adds to its first operand, which is a tensor, where that is a number."""
    plain = step.name == "add" and not step.kwargs and isinstance(step.args[0], Ref)
    return float(step.args[1]) if plain and isinstance(step.args[1], int | float) else None


def group_axis(step: Step, forward: ForwardPass) -> Axis:
    """The channels of one group of a GroupNorm."""
    channels, groups = step.args[4], step.args[6]
    return factor_out(forward.axes(step.args[0].number)[1], channels // groups)[1]


def multipliers(trace: Trace) -> frozenset[str]:
    """Parameters that only ever multiply what channels carry (gains, scales), and variances."""
    multiplies, other = set[str](), set[str]()
    for step, number in trace.forward.uses:
        names = trace.forward.made_of[number]
        (multiplies if _multiplies(step, number) else other).update(names)
    return frozenset(multiplies - other)


def _multiplies(step: Step, number: int) -> bool:
    def at(*places: int) -> bool:
        return any(
            isinstance(step.args[i], Ref) and step.args[i].number == number for i in places if i < len(step.args)
        )

    if step.op.kind in NORMS:
        return at(step.op.affine[0])
    if step.op.kind is Kind.BATCH_NORM:
        return at(1, 4)
    return step.name == "mul"


def norm_shifts(trace: Trace) -> frozenset[str]:
    """What LayerNorms add."""
    found = set[str]()
    for step in trace.forward.steps:
        norm = norm_call(step, trace.forward)
        if norm is not None and norm.shift is not None:
            found.update(trace.forward.stored.get(norm.shift, ()))
    return frozenset(found)
