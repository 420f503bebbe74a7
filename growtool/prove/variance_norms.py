"""Norms that divide by a standard deviation taken with N - 1: `x / sqrt(var + eps) * gain`.

With k copies of each of N channels such a variance is `r = k (N - 1) / (k N - 1)` times as large. So the gain becomes
`gain * sqrt(r)`, and the norm is what it was if its eps becomes `eps * r`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from growtool.algebra.expansion import Expansion, copies_per_position
from growtool.algebra.rewrite import RescaledNorm
from growtool.trace import Axis, ChannelGroup, Trace
from growtool.trace.axes import axis_size
from growtool.trace.kinds import Kind
from growtool.trace.norms import norm_call
from growtool.trace.steps import ForwardPass, Ref, Step

_CHAIN = ("var", "add", "rsqrt", "mul", "mul")


@dataclass(frozen=True, slots=True)
class VarianceNorm:
    """A norm that divides by a deviation taken with N - 1.

    Attributes:
        module: its path, the only variance in which is this one.
        axis: the channels it normalises.
        gains: the names of its gain, which is used for nothing else.
        eps: what it adds to the variance.
    """

    module: str
    axis: Axis
    gains: tuple[str, ...]
    eps: float


def variance_norms(trace: Trace) -> list[VarianceNorm]:
    """Every such norm over the last axis of its input."""
    forward = trace.forward
    uses, read_by = forward.use_counts, forward.touched_by
    variances = Counter(step.module for step in forward.steps if step.op.kind is Kind.VARIANCE)
    found = []
    for place, step in enumerate(forward.steps):
        if step.name != "var" or variances[step.module] > 1:
            continue
        chain = _chain(place, forward, read_by)
        gains = _gain(chain, forward) if chain else ()
        if gains and all(uses[name] == 1 for name in gains):
            eps = float(f"{chain[1].args[1]:.8g}")
            found.append(VarianceNorm(step.module, forward.axes(step.args[0].number)[-1], gains, eps))
    return found


def _chain(start: int, forward: ForwardPass, read_by: Mapping[int, list[int]]) -> list[Step]:
    """The operations of the norm, each the only one to read the result of the one before; none if they are others."""
    var = forward.steps[start]
    x, last = var.args[0].number, len(forward.layouts[var.args[0].number]) - 1
    over_last = [dim % (last + 1) for dim in var.arg(1, "dim") or ()] == [last]
    if not over_last or var.kwargs.get("correction", 1) != 1 or var.kwargs.get("keepdim") is not True:
        return []
    chain = [var]
    for name in _CHAIN[1:]:
        places = read_by[chain[-1].outs[0]]
        if len(places) != 1 or forward.steps[places[0]].name != name:
            return []
        chain.append(forward.steps[places[0]])
    _, add, _, product, _ = chain
    between = forward.steps[start : places[0]]
    changed = any(x in (*step.outs, *step.overwritten) for step in between)
    plain = isinstance(add.args[1], int | float) and not add.kwargs
    same = x in product.ins and len(product.ins) == 2 and {step.module for step in chain} == {var.module}
    return chain if plain and same and not changed else []


def _gain(chain: list[Step], forward: ForwardPass) -> tuple[str, ...]:
    """The names of the parameter that the result is multiplied by."""
    others = [leaf.number for leaf in chain[-1].args[:2] if isinstance(leaf, Ref) and leaf.number != chain[-2].outs[0]]
    return forward.stored.get(others[0], ()) if len(others) == 1 else ()


def rescaled_variances(trace: Trace, expansions: Mapping[ChannelGroup, Expansion]) -> list[RescaledNorm]:
    """The norms of the target whose channels are all copied equally often, and more than once.

    Args:
        trace: the target's.
        expansions: how each set of channels grows.
    """
    found = []
    for norm in variance_norms(trace):
        copies = copies_per_position(norm.axis, expansions)
        after = axis_size(norm.axis)
        if copies is not None and copies > 1 and after > copies:
            ratio = (after - copies) / (after - 1)
            found.append(RescaledNorm(norm.module, norm.gains, ratio, norm.eps))
    return found


def eps_of_norms(trace: Trace) -> dict[str, float]:
    """Module path -> what a norm over the channels of each position adds to the variance."""
    calls = ((step.module, norm_call(step, trace.forward)) for step in trace.forward.steps)
    found = {module: call.eps for module, call in calls if call is not None and call.eps is not None}
    return found | {norm.module: norm.eps for norm in variance_norms(trace)}
