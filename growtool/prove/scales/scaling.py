"""Factors that growth brings into a pass, and the factors of weights that take them back.

Copies of channels, and numbers that depend on sizes, make values of the target multiples of the source's:
`y' = s E y`. Over m copies of each channel

- a sum of products of two activations is m times as large, and so is what a standardised weight computes, since
  standardising undoes the split of its columns (arXiv 2101.08692, section 4.2);
- each result of a softmax is 1/m of what it was;
- `d^-1/2` is another number for another head size d, the beta of NFNet (arXiv 2102.06171, section 3) for another depth.

Weights may be multiplied to make up for it, part by part: queries, keys and values of one matrix each have a factor.
Operations say what is required of factors: a function that is not homogeneous needs a factor of 1, two tensors that are
added need equal factors. That is one linear system in logarithms (`prove.scales.log_scales`). For larger heads its
solution is `(d / d')^1/4` for queries and keys each (HyperCloning, arXiv 2409.12903). For a standardised weight with a
gain g, which the model multiplies by a number c (`fan_in^-1/2`), it is `g' = g c / (c' m)`; without a gain it is a norm
in front whose gain and shift are divided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.lockstep import Entry, Lockstep
from growtool.prove.scales.log_scales import Solution
from growtool.prove.scales.rules import follow
from growtool.prove.scales.scale_pass import JointOp, ScalePass
from growtool.trace import ChannelGroup, PairedAxis, groups_on


@dataclass(frozen=True, slots=True)
class Scaling:
    """The factors of weights, and what they do and do not make up for.

    Attributes:
        row_factors: tensor of the target -> float64 [rows of its source], what each row is multiplied by; absent:
            nothing.
        offsets: tensor of the target -> number that the model adds to it before it uses it; the sum is multiplied.
        constants: constants of the target that are multiples of the source's, where weights make up for the ratio.
        joint: every joint operation of the target -> whether weights make up for copies there.
        norms: norms by a variance with N - 1 where weights make up for copies, provided their eps changes.
        transformed: weight that goes through a function, which a split of its columns does not pass -> the module.
        copied: weights whose columns are copied, not split, with success.
        numbers: module path of the target -> place of an entry with another number than the source's -> the source's
            entry; weights make up for the ratio.
        lost: modules or weights where channels are summed with weights that cannot be split, with the channels.
        undone: modules that transform a weight and so undo its split, with the channels.
    """

    row_factors: Mapping[str, Tensor] = field(default_factory=dict)
    offsets: Mapping[str, float] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()
    joint: Mapping[JointOp, bool] = field(default_factory=dict)
    norms: tuple[RescaledNorm, ...] = ()
    transformed: Mapping[str, str] = field(default_factory=dict)
    copied: frozenset[str] = frozenset()
    numbers: Mapping[str, Mapping[int, Entry]] = field(default_factory=dict)
    lost: tuple[tuple[str, ChannelGroup], ...] = ()
    undone: tuple[tuple[str, ChannelGroup], ...] = ()

    def unused(self) -> Scaling:
        """Return the same joint operations, with weights that make up for none of them."""
        return Scaling(joint=dict.fromkeys(self.joint, False), transformed=self.transformed)

    @property
    def groups(self) -> frozenset[ChannelGroup]:
        """The channel groups over which products of two activations are summed and made up for: heads that grow."""
        made_up_for = (joint.axis for joint, made_up in self.joint.items() if made_up and joint.kind == "product")
        return frozenset(group for axis in made_up_for for group in groups_on(axis))


def scaling(
    lockstep: Lockstep,
    rows: Mapping[str, PairedAxis],
    expansions: Mapping[ChannelGroup, Expansion],
    ratios: Mapping[str, float],
    *,
    copying: bool,
) -> Scaling:
    """Find the factors of weights that make up for as much as possible of what growth brings in.

    Args:
        lockstep: source and target.
        rows, expansions, ratios: as in `ScalePass`.
        copying: whether columns of weights may be copied where a split serves them ill: of weights that are transformed
            (standardised, say) before use, and of those that are read in another way too, as tied embeddings are.
    """
    unsplit = lockstep.target.read_in_several_ways if copying else frozenset[str]()
    start = partial(ScalePass, lockstep, rows, expansions, ratios)
    run, solution = _solved(start, unsplit, copying=copying)
    failed = {name for name in unsplit & run.copied.keys() if not solution.failed.isdisjoint(run.copied[name])}
    if failed:  # copies do not serve these either, so that they are split after all
        run, solution = _solved(start, unsplit - failed, copying=copying)
    return _result(run, solution)


def _solved(
    start: Callable[[frozenset[str]], ScalePass], unsplit: frozenset[str], *, copying: bool
) -> tuple[ScalePass, Solution]:
    """Run a pass with weights that are copied and not split, and solve its linear system.

    Args:
        start: gives a pass, given the weights that are not split.
        unsplit: these weights.
        copying: whether transformed weights are to be copied, too; which they are is known after a first pass.
    """
    run = _followed(start(unsplit))
    # `sums` has the names of split weights among its values: without any, there is nothing to copy in their place
    if copying and not run.transformed.keys().isdisjoint(run.sums.values()):
        run = _followed(start(unsplit | run.transformed.keys()))
    # These changes are reported one by one, so they are blamed before the sums and splits that they meet.
    suspects = {term for terms in (*run.joint.values(), *run.copied.values()) for term in terms}
    suspects |= {term for term, _ in run.numbers.values()} | set(run.constants.values())
    return run, run.values.scales.solve(suspects)


def _followed(run: ScalePass) -> ScalePass:
    """Run a pass over all steps, and require outputs without factors."""
    for step in run.trace.forward.steps:
        follow(run, step)
    run.values.require_one(*map(run.of, run.trace.forward.outputs))
    return run


def _result(run: ScalePass, solution: Solution) -> Scaling:
    numbers = defaultdict[str, dict[int, Entry]](dict)
    for (module, place), (term, entry) in run.numbers.items():
        if term not in solution.failed:
            numbers[module][place] = entry
    factors = {
        name: torch.tensor([solution.factors.get(term, 1.0) for term in terms], dtype=torch.float64)
        for name, terms in run.unknown.items()
        if any(solution.factors.get(term, 1.0) != 1.0 for term in terms)
    }
    places = run.sums | {term: name for name, terms in run.copied.items() for term in terms}
    failing = [(place, run.copies.groups[term]) for term, place in places.items() if term in solution.failed]
    undone = [(run.transformed[name], group) for name, group in failing if name in run.transformed]
    return Scaling(
        row_factors={name: of_part[run.rows[name].parts(0)[0]] for name, of_part in factors.items()},
        offsets=run.offsets,
        constants=frozenset(name for name, term in run.constants.items() if term not in solution.failed),
        joint={joint: bool(terms) and solution.failed.isdisjoint(terms) for joint, terms in run.joint.items()},
        norms=tuple(norm for norm, term in run.norms.items() if term not in solution.failed),
        transformed=run.transformed,
        copied=frozenset(name for name, terms in run.copied.items() if terms and solution.failed.isdisjoint(terms)),
        numbers=numbers,
        lost=tuple(dict.fromkeys((place, group) for place, group in failing if place not in run.transformed)),
        undone=tuple(dict.fromkeys(undone)),
    )
