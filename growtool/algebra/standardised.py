"""Weights standardised over their fan-in before use, and the gains that follow (arXiv 2101.08692, section 4.2).

Such a layer computes with `g s (W - mean) / sqrt(var + eps)`, mean and variance of W over the inputs of a row, `g` a
gain per row and `s` a number of the constructor's, `fan_in^-1/2` say. A split of W among the copies of a channel is
undone by this. Plain copies of the columns leave mean, variance and eps what they were, so that each copy comes out
with the source's weight; the sum over k copies is k times as large, which the gain takes back: `g' = g s / (s' k)`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from growtool.algebra.expansion import Expansion
from growtool.algebra.linear import is_convolution
from growtool.algebra.promise import copies_per_position
from growtool.coupling import Atom, Coupling
from growtool.coupling.steps import ForwardPass, Ref, Step

_REARRANGED = frozenset(("view", "_unsafe_view", "reshape", "alias", "detach", "contiguous"))


@dataclass(frozen=True, slots=True)
class Standardised:
    """A weight that is standardised row by row and used in a convolution alone, with a gain of its own.

    Attributes:
        module: its path.
        weights: the names of W, rows first.
        gains: the names of g.
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


def standardised_weights(coupling: Coupling) -> dict[str, Standardised]:
    """The standardised weights with a gain, by their module's path; a module with several is left out."""
    forward = coupling.forward
    made_by = {number: step for step in forward.steps for number in step.outs}
    uses = Counter(number for step in forward.steps for number in step.ins)
    found = [_standardised(step, forward, made_by, uses) for step in forward.steps if step.name == "native_batch_norm"]
    modules = Counter(weight.module for weight in found if weight)
    return {weight.module: weight for weight in found if weight and modules[weight.module] == 1}


def _standardised(
    step: Step, forward: ForwardPass, made_by: Mapping[int, Step], uses: Mapping[int, int]
) -> Standardised | None:
    x, gain, *others = step.args[:5]
    if not (step.args[5] is True and isinstance(gain, Ref) and others == [None, None, None]):
        return None
    weight, by = _stored(x.number, made_by, uses)
    factor, scale = _stored(gain.number, made_by, uses)
    names, gains = forward.stored.get(weight, ()), forward.stored.get(factor, ())
    if not names or not gains or by != 1.0 or forward.axes(x.number)[1] != forward.axes(weight)[0]:
        return None
    if uses[weight] > 1 or uses[factor] > 1 or not _only_convolves(step.outs[0], forward, made_by):
        return None
    return Standardised(step.module, names, gains, scale)


def _only_convolves(number: int, forward: ForwardPass, made_by: Mapping[int, Step]) -> bool:
    """Whether a tensor is the weight of convolutions and nothing else."""
    for step in forward.steps:
        if step.name in _REARRANGED:
            continue
        read = [n for n in step.ins if _origin(n, made_by) == number]
        if read and not (is_convolution(step) and read == [step.args[1].number] and not step.args[6]):
            return False
    return True


def _stored(number: int, made_by: Mapping[int, Step], uses: Mapping[int, int]) -> tuple[int, float]:
    """Where a tensor comes from by rearrangements and factors that nothing else reads, and the product of these."""
    factor = 1.0
    while number in made_by and uses[number] == 1:
        step = made_by[number]
        if step.name == "mul" and len(step.ins) == 1 and isinstance(step.args[1], int | float):
            factor *= step.args[1]
        elif step.name not in _REARRANGED:
            break
        number = step.ins[0]
    return number, factor


def _origin(number: int, made_by: Mapping[int, Step]) -> int:
    """The tensor that a chain of rearrangements starts from."""
    while number in made_by and made_by[number].name in _REARRANGED:
        number = made_by[number].ins[0]
    return number


def rescaled_weights(
    source: Coupling,
    target: Coupling,
    expansions: Mapping[Atom, Expansion],
    source_path: Callable[[str], str],
) -> dict[str, Rescaled]:
    """The standardised weights of the target that read copied channels, by their module's path.

    Args:
        source, target: both couplings.
        expansions: how each set of channels grows.
        source_path: path of a module of the target -> that of its counterpart.
    """
    before = standardised_weights(source)
    found = {}
    for path, weight in standardised_weights(target).items():
        counterpart = before.get(source_path(path))
        copies = [copies_per_position(axis, expansions) for axis in target.tensors[weight.weights[0]][1:]]
        known = [times for times in copies if times is not None]
        if counterpart is None or len(known) < len(copies) or math.prod(known) == 1:
            continue
        factor = counterpart.scale / (weight.scale * math.prod(known))
        found[path] = Rescaled(weight, counterpart.scale, factor)
    return found
