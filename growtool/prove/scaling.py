"""Factors that growth brings into a pass, and the weights that take them back.

Copies and other numbers make values of the target multiples of the source's: `y' = s E y`. A sum of products of two
activations over m copies of each channel is m times as large; so is what a standardised weight reads, since a split of
its columns is undone (arXiv 2101.08692, section 4.2); a softmax over copies is 1/m of what it was; `d^-1/2` becomes
another number with the head size d, the beta of NFNet (arXiv 2102.06171, section 3) with the depth.

Weights may be multiplied, part by part: queries, keys and values of one matrix have factors of their own. What is not
homogeneous takes no factor, what is added takes one. So the factors of the weights solve a linear system in logarithms
(`prove.log_scales`). For heads that grow it comes to `(d / d')^1/4` for queries and keys each (HyperCloning, arXiv
2409.12903); for standardised weights to `g' = g s / (s' k)`, or to a norm in front whose gain and shift are divided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.prove.operations import Entry
from growtool.prove.scale_pass import Counterpart, Joint, ScalePass, parts_of
from growtool.prove.scale_rules import take
from growtool.trace import ChannelGroup, PairedAxis, Trace, groups_on


@dataclass(frozen=True, slots=True)
class Scaling:
    """What makes up for the factors that growth brings in.

    Attributes:
        rows: tensor of the target -> float64 [rows of its source], what they are multiplied by.
        joint: kind, module and channels of joint operations that are made up for.
        copied: weights whose columns are copied, not split.
        numbers: module path of the target -> place of an entry of its signature -> the source's that it stands for.
        lost: modules, or weights, where channels are summed with weights that are not split among their copies.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    joint: frozenset[Joint] = frozenset()
    copied: frozenset[str] = frozenset()
    numbers: Mapping[str, Mapping[int, Entry]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @property
    def groups(self) -> frozenset[ChannelGroup]:
        """Channels over which products of two activations are made up for."""
        return frozenset(group for kind, _, axis in self.joint if kind == "product" for group in groups_on(axis))


def scaling(
    target: Trace,
    rows: Mapping[str, PairedAxis],
    expansions: Mapping[ChannelGroup, Expansion],
    counterpart: Counterpart,
    *,
    copying: bool,
) -> Scaling:
    """Find the factors; what nothing makes up for is left out.

    Args:
        target: the target's trace.
        rows: first axis of each tensor of the target that may be multiplied; see `ScalePass`.
        expansions: how each set of channels grows; those that stay may be absent.
        counterpart: the operation of the source that one of the target comes from, with its entry in the signature.
        copying: whether weights that are transformed (standardised, say) before use may grow by plain copies.
    """
    run = _followed(ScalePass(target, rows, expansions, counterpart, frozenset()))
    if copying and not run.transformed.isdisjoint(run.sums.values()):  # the names of split weights are among these
        run = _followed(ScalePass(target, rows, expansions, counterpart, frozenset(run.transformed)))
    told = {term for terms in (*run.joint.values(), *run.copied.values()) for term in terms}
    solution = run.values.scales.solve(told | {term for term, _ in run.numbers.values()})
    numbers = defaultdict[str, dict[int, Entry]](dict)
    for (module, place), (term, entry) in run.numbers.items():
        if term not in solution.failed:
            numbers[module][place] = entry
    factors = {
        name: torch.tensor([solution.factors.get(term, 1.0) for term in terms], dtype=torch.float64)
        for name, terms in run.unknown.items()
    }
    return Scaling(
        rows={name: own[parts_of(rows[name], 0)[0]] for name, own in factors.items() if bool((own != 1).any())},
        joint=frozenset(key for key, terms in run.joint.items() if terms and solution.failed.isdisjoint(terms)),
        copied=frozenset(name for name, terms in run.copied.items() if terms and solution.failed.isdisjoint(terms)),
        numbers=numbers,
        lost=tuple(dict.fromkeys(place for term, place in run.sums.items() if term in solution.failed)),
    )


def _followed(run: ScalePass) -> ScalePass:
    for step in run.trace.forward.steps:
        take(run, step)
    run.values.unscaled(*map(run.of, run.trace.forward.outputs))
    return run
