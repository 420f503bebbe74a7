"""Factors that growth brings into a pass, and the weights that take them back.

Copies and other numbers make values of the target multiples of the source's: `y' = s E y`. A sum of products of two
activations over m copies of each channel is m times as large; so is what a standardised weight reads, since a split of
its columns is undone (arXiv 2101.08692, section 4.2); a softmax over copies is 1/m of what it was; `d^-1/2` becomes
another number with the head size d, the beta of NFNet (arXiv 2102.06171, section 3) with the depth.

Weights may be multiplied, part by part: queries, keys and values of one matrix have factors of their own. What is not
homogeneous takes no factor, what is added takes one. So the factors of the weights solve a linear system in logarithms
(`prove.scales.log_scales`). For heads that grow it comes to `(d / d')^1/4` for queries and keys each (HyperCloning,
arXiv 2409.12903); for standardised weights to `g' = g s / (s' k)`, or to a norm in front whose gain and shift are
divided.
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
from growtool.prove.scales.rules import take
from growtool.prove.scales.scale_pass import JointOp, ScalePass, parts_of
from growtool.trace import ChannelGroup, PairedAxis, groups_on


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes up for the factors that growth brings in.

    Attributes:
        rows: tensor of the target -> float64 [rows of its source], what they are multiplied by.
        offsets: tensor of the target -> what the model adds to it before it uses it; the sum is multiplied.
        constants: constant of the target that is a multiple of the source's, for which weights make up.
        joint: every joint operation of the target, and whether weights make up for copies there.
        norms: norms by a variance with N - 1 that are made up for, if their eps may change.
        transformed: weight that goes through a function that a split of its columns does not pass -> where.
        copied: weights whose columns are copied, not split.
        numbers: module path of the target -> place of an entry of its signature -> the source's that it stands for.
        lost: modules, or weights, where channels are summed with weights that are not split among their copies, with
            these channels.
        undone: modules that transform weights whose split among copies that undoes, with the channels.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
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
        """The same operations, of which weights make up for none."""
        return Scaling(joint=dict.fromkeys(self.joint, False), transformed=self.transformed)

    @property
    def groups(self) -> frozenset[ChannelGroup]:
        """Channels over which products of two activations are made up for."""
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
    """Find the factors; what nothing makes up for is left out.

    Args:
        lockstep: source and target.
        rows: first axis of each tensor of the target that may be multiplied; see `ScalePass`.
        expansions: how each set of channels grows; those that stay may be absent.
        ratios: constant of the target that is a multiple of the source's -> how many times as large it is.
        copying: whether weights may grow by plain copies where a split serves them ill: those that are transformed
            (standardised, say) before use, and those that are read in another way too, as tied embeddings are.
    """
    torn = lockstep.target.ambiguous if copying else frozenset[str]()
    begin = partial(ScalePass, lockstep, rows, expansions, ratios)
    run, solution = _solved(begin, torn, copying=copying)
    failed = {name for name in torn & run.copied.keys() if not solution.failed.isdisjoint(run.copied[name])}
    if failed:  # copies do not serve them either
        run, solution = _solved(begin, torn - failed, copying=copying)
    numbers = defaultdict[str, dict[int, Entry]](dict)
    for (module, place), (term, entry) in run.numbers.items():
        if term not in solution.failed:
            numbers[module][place] = entry
    factors = {
        name: torch.tensor([solution.factors.get(term, 1.0) for term in terms], dtype=torch.float64)
        for name, terms in run.unknown.items()
    }
    places = run.sums | {term: name for name, terms in run.copied.items() for term in terms}
    failing = [(place, run.copies_of[term]) for term, place in places.items() if term in solution.failed]
    return Scaling(
        rows={name: own[parts_of(rows[name], 0)[0]] for name, own in factors.items() if bool((own != 1).any())},
        offsets=run.offsets,
        constants=frozenset(name for name, term in run.constants.items() if term not in solution.failed),
        joint={joint: bool(terms) and solution.failed.isdisjoint(terms) for joint, terms in run.joint.items()},
        norms=tuple(norm for norm, term in run.norms.items() if term not in solution.failed),
        transformed=run.transformed,
        copied=frozenset(name for name, terms in run.copied.items() if terms and solution.failed.isdisjoint(terms)),
        numbers=numbers,
        lost=tuple(dict.fromkeys((place, group) for place, group in failing if place not in run.transformed)),
        undone=tuple(
            dict.fromkeys((run.transformed[name], group) for name, group in failing if name in run.transformed)
        ),
    )


def _solved(
    begin: Callable[[frozenset[str]], ScalePass], unsplit: frozenset[str], *, copying: bool
) -> tuple[ScalePass, Solution]:
    """A pass with weights that are copied and not split, those that are transformed too where copies are allowed."""
    run = _followed(begin(unsplit))
    # names of split weights are among the places of sums
    if copying and not run.transformed.keys().isdisjoint(run.sums.values()):
        run = _followed(begin(unsplit | run.transformed.keys()))
    told = {term for terms in (*run.joint.values(), *run.copied.values()) for term in terms}
    told |= {term for term, _ in run.numbers.values()} | set(run.constants.values())
    return run, run.values.scales.solve(told)


def _followed(run: ScalePass) -> ScalePass:
    for step in run.trace.forward.steps:
        take(run, step)
    run.values.unscaled(*map(run.of, run.trace.forward.outputs))
    return run
