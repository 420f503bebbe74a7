"""Weights standardised over their fan-in before use, and the gains that follow (arXiv 2101.08692, section 4.2).

Such a layer computes with `g s (W - mean) / sqrt(var + eps)`, mean and variance of W over the inputs of a row, `g` a
gain per row and `s` a number of the constructor's, `fan_in^-1/2` say. A split of W among the copies of a channel is
undone by this. Plain copies of the columns leave mean, variance and eps what they were, so that each copy comes out
with the source's weight; the sum over k copies is k times as large, which the gain takes back: `g' = g s / (s' k)`.

Without a gain of its own the norm in front takes it back, whose gain and shift are divided by k, if such convolutions
are all that reads it (`prove.absorbing_norms`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from growtool.algebra.expansion import Expansion, copies_per_position
from growtool.prove.absorbing_norms import norms_in_front
from growtool.trace import ChannelGroup, Trace
from growtool.trace.factors import is_convolution
from growtool.trace.kinds import Kind
from growtool.trace.steps import ForwardPass, Ref, Step


@dataclass(frozen=True, slots=True)
class Standardised:
    """A weight that is standardised row by row and used in a convolution alone, and what scales the result.

    Attributes:
        module: its path.
        weights: the names of W, rows first.
        gains: the names of g, or those of the gain and shift of the norm in front.
        scale: s.
    """

    module: str
    weights: tuple[str, ...]
    gains: tuple[str, ...]
    scale: float


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A standardised weight of the target whose columns are copied and whose gain makes up for it.

    Attributes:
        target: the weight.
        source_scale: s of its counterpart in the source.
        factor: g' / g.
    """

    target: Standardised
    source_scale: float
    factor: float


def standardised_weights(trace: Trace) -> dict[str, Standardised]:
    """The standardised weights that something scales, by their module's path; a module with several is left out."""
    forward = trace.forward
    found = [_with_gain(step, forward) for step in forward.steps if step.name == "native_batch_norm"]
    found += _without_gain(forward)
    modules = Counter(weight.module for weight in found if weight)
    return {weight.module: weight for weight in found if weight and modules[weight.module] == 1}


def _with_gain(step: Step, forward: ForwardPass) -> Standardised | None:
    names = _standardised(step, forward)
    if not names or not isinstance(step.args[1], Ref) or not _convolutions(step.outs[0], forward):
        return None
    factor, scale = _stored(step.args[1].number, forward)
    gains = forward.stored.get(factor, ())
    return Standardised(step.module, names, gains, scale) if gains and forward.reads[factor] == 1 else None


def _without_gain(forward: ForwardPass) -> list[Standardised | None]:
    weights: dict[int, tuple[str, tuple[str, ...]]] = {}
    for step in forward.steps:
        if step.name == "native_batch_norm" and step.args[1] is None:
            names = _standardised(step, forward)
            places = _convolutions(step.outs[0], forward)
            if names and len(places) == 1:
                weights[places[0]] = step.module, names
    norms = norms_in_front(forward)
    other = {gain for place, gains in norms.items() if place not in weights for gain in gains}
    return [
        Standardised(module, names, norms[place], 1.0)
        for place, (module, names) in weights.items()
        if place in norms and other.isdisjoint(norms[place])
    ]


def _standardised(step: Step, forward: ForwardPass) -> tuple[str, ...]:
    """The names of the weight that a norm by the batch's own statistics standardises row by row; none elsewhere."""
    x, _, *others = step.args[:5]
    if step.args[5] is not True or others != [None, None, None]:
        return ()
    weight, by = _stored(x.number, forward)
    names = forward.stored.get(weight, ())
    alone = by == 1.0 and forward.reads[weight] == 1
    return names if names and alone and forward.axes(x.number)[1] == forward.axes(weight)[0] else ()


def _convolutions(number: int, forward: ForwardPass) -> list[int]:
    """The places of the convolutions that a tensor is the weight of; none if anything else reads it."""
    found = []
    for place, step in enumerate(forward.steps):
        if _rearranges(step):
            continue
        read = [n for n in step.ins if _origin(n, forward) == number]
        if read and not (is_convolution(step) and read == [step.args[1].number] and not step.args[6]):
            return []
        found += [place] * bool(read)
    return found


def _stored(number: int, forward: ForwardPass) -> tuple[int, float]:
    """Where a tensor comes from by rearrangements and factors that nothing else reads, and the product of these."""
    factor = 1.0
    while number in forward.made_by and forward.reads[number] == 1:
        step = forward.made_by[number]
        if step.name == "mul" and len(step.ins) == 1 and isinstance(step.args[1], int | float):
            factor *= step.args[1]
        elif not _rearranges(step):
            break
        number = step.ins[0]
    return number, factor


def _origin(number: int, forward: ForwardPass) -> int:
    """The tensor that a chain of rearrangements starts from."""
    while number in forward.made_by and _rearranges(forward.made_by[number]):
        number = forward.made_by[number].ins[0]
    return number


def _rearranges(step: Step) -> bool:
    return step.op.kind in (Kind.RESHAPE, Kind.SAME)


def rescaled_weights(
    source: Trace,
    target: Trace,
    expansions: Mapping[ChannelGroup, Expansion],
    source_path: Callable[[str], str],
) -> dict[str, Rescaled]:
    """The standardised weights of the target that read copied channels, by their module's path.

    Args:
        source, target: both traces.
        expansions: how each set of channels grows.
        source_path: path of a module of the target -> that of its counterpart.
    """
    before = standardised_weights(source)
    groups = defaultdict[tuple[str, ...], dict[str, Rescaled | None]](dict)
    for path, weight in standardised_weights(target).items():
        copies = [copies_per_position(axis, expansions) for axis in target.tensors[weight.weights[0]][1:]]
        groups[weight.gains][path] = _rescaled(weight, before.get(source_path(path)), copies)
    found: dict[str, Rescaled] = {}
    for members in groups.values():
        rescaled = {path: member for path, member in members.items() if member is not None}
        if len(rescaled) == len(members) and len({member.factor for member in rescaled.values()}) == 1:
            found |= rescaled
    return {path: weight for path, weight in found.items() if weight.factor != 1.0}


def _rescaled(weight: Standardised, counterpart: Standardised | None, copies: Sequence[int | None]) -> Rescaled | None:
    known = [times for times in copies if times is not None]
    if counterpart is None or len(known) < len(copies):
        return None
    return Rescaled(weight, counterpart.scale, counterpart.scale / (weight.scale * math.prod(known)))
