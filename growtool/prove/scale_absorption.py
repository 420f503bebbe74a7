"""Numbers by which source and target multiply differently, made up for by the layers that read the product.

A network may divide a stream by a deviation expected at initialisation, which grows with the blocks before (the beta of
NFNet, arXiv 2102.06171, section 3). Where the target has `b' x` for the source's `b x` and convolutions or linear
layers alone read it, their weights times `b / b'` compute the same; of standardised weights, the gains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from growtool.prove.standardised import Standardised, standardised_weights
from growtool.trace import Trace
from growtool.trace.factors import is_convolution, operands_of
from growtool.trace.kinds import is_linear_per_channel
from growtool.trace.steps import ForwardPass, Step


@dataclass(frozen=True, slots=True)
class AbsorbedScale:
    """A factor of the target that weights behind it make up for.

    Attributes:
        own: the number of the target.
        source: that of the source.
        tensors: the target's tensors to be multiplied by source / own.
    """

    own: float
    source: float
    tensors: frozenset[str]


def absorbed_scales(
    source: Trace, target: Trace, source_path: Callable[[str], str], skip: Callable[[str], bool]
) -> dict[str, AbsorbedScale]:
    """The modules of the target with one other factor than their counterparts, where the layers behind can make up.

    Args:
        source, target: both traces.
        source_path: path of a module of the target -> that of its counterpart.
        skip: paths of the target to leave out.
    """
    pairs = {path: _other(source, target, path, source_path) for path in target.signatures if not skip(path)}
    other = {path: pair for path, pair in pairs.items() if pair is not None}
    standardised = standardised_weights(target) if other else {}
    found: dict[str, AbsorbedScale] = {}
    taken: set[str] = set()
    for path, ((product, own), (_, factor)) in other.items():
        tensors = _readers(target, product, standardised, skip) if own * factor > 0 else None
        if tensors and not tensors & taken:
            taken |= tensors
            found[path] = AbsorbedScale(own, factor, tensors)
    return found


def _other(
    source: Trace, target: Trace, path: str, source_path: Callable[[str], str]
) -> tuple[tuple[Step, float], tuple[Step, float]] | None:
    """The one multiplication of a module of the target whose number is another than in the source, and that there."""
    ours, theirs = _factors(target, path), _factors(source, source_path(path))
    differing = [(a, b) for a, b in zip(ours, theirs, strict=False) if a[1] != b[1]]
    return differing[0] if len(ours) == len(theirs) and len(differing) == 1 else None


def _factors(trace: Trace, path: str) -> list[tuple[Step, float]]:
    """The multiplications of activations by a number in a module, in order, each with the number."""
    made_of = trace.forward.made_of
    steps = (s for s in trace.forward.steps if s.module == path and s.name == "mul" and len(s.ins) == 1)
    return [
        (step, float(step.args[1]))
        for step in steps
        if step.ins[0] not in made_of and isinstance(step.args[1], int | float)
    ]


def _readers(
    target: Trace, product: Step, standardised: Mapping[str, Standardised], skip: Callable[[str], bool]
) -> frozenset[str] | None:
    """The weights, or gains, of the layers that read a product; None where something else reads it, or reads them."""
    forward = target.forward
    carrying, tensors, layers = set(product.outs), set[str](), set[int]()
    following = forward.steps[next(i for i, step in enumerate(forward.steps) if step is product) + 1 :]
    if product.overwritten:
        return None
    for step in following:
        if carrying & {*step.outs, *step.overwritten}:
            return None
        if not carrying.intersection(step.ins):
            continue
        if is_linear_per_channel(step) and len(step.ins) == 1:
            carrying |= set(step.outs)
            continue
        names = _scalable(step, carrying, forward, standardised)
        if not names or any(map(skip, names)):
            return None
        tensors |= names
        layers.add(id(step))
    others = any(forward.made_of[number] & tensors and id(step) not in layers for step, number in forward.uses)
    return None if others or carrying & set(forward.outputs) else frozenset(tensors)


def _scalable(
    step: Step,
    carrying: Collection[int],
    forward: ForwardPass,
    standardised: Mapping[str, Standardised],
) -> frozenset[str]:
    """What multiplies a layer's result but for its bias: its weight, or the gains of a standardised one."""
    operands = (step.args[0].number, step.args[1].number) if is_convolution(step) else operands_of(step)
    if operands is None or operands[0] not in carrying or set(step.ins) & set(carrying) != {operands[0]}:
        return frozenset()
    weight = operands[1]
    made_by = forward.made_by
    while weight in made_by and made_by[weight].op.keeps_all and weight not in forward.stored:
        weight = made_by[weight].ins[0]
    if weight in forward.stored:
        return frozenset(forward.stored[weight])
    found = standardised.get(step.module)
    alone = found is not None and forward.made_of.get(weight) == frozenset((*found.weights, *found.gains))
    return frozenset(found.gains) if found is not None and alone else frozenset()
