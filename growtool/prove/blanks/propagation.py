"""What blank channels go through: the trace run once more on what is known of them.

A blank channel copies none. Its writers may leave it `silent` (zeros), `mean` (the mean of the old channels) or `open`
(anything). Which of these passes through an operation, and leaves the old channels what they were, depends on the
operation: ReLU keeps zeros, a sigmoid does not; a LayerNorm keeps zeros if the old channels have mean zero; a product
of two activations keeps nothing. Each operation is asked in turn, by its kind (`prove.blanks.transfer`). Where one
cannot answer, the reason is kept: the growth is lossy there.

What is known of a tensor is an `AbstractState`: of its blank channels (`rows`), and of its old ones (`value`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from growtool.algebra.expansion import Blank, Expansion
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.blanks.norms import require_gains_of_their_own
from growtool.prove.blanks.state import AbstractState, BlankPass
from growtool.prove.blanks.transfer import after
from growtool.prove.blanks.writers import Writers, writers_of_norms, writes_alone
from growtool.trace import ChannelGroup, Trace, groups_on
from growtool.trace.reading.norms import multipliers, norm_shifts
from growtool.trace.steps import Step

_TRANSFORMED = "weights are transformed (standardised, say) before use"


@dataclass(frozen=True)
class BlankPropagation:
    """What became of the blank channels of one set.

    Attributes:
        blank: what the writers leave there.
        reasons: module path and why the function changes there.
        nearly: norms that write the channels themselves; a mean remains that no centring takes off, but little of it.
        norms: norms whose gain makes up for the blanks.
        writers: what has to be centred (or, for `mean`, freed of its scale) first.
        free: parameters that meet zeros alone at the blank columns they read.
        gains: parameters that only ever multiply these channels.
    """

    blank: Blank
    reasons: tuple[tuple[str, str], ...]
    nearly: tuple[str, ...]
    norms: tuple[RescaledNorm, ...]
    writers: Writers
    free: frozenset[str]
    gains: frozenset[str]


def propagate_blanks(
    trace: Trace,
    group: ChannelGroup,
    blank: Blank,
    expansions: Mapping[ChannelGroup, Expansion],
    zeroed: frozenset[str] = frozenset(),
    transformed: Mapping[str, str] = MappingProxyType({}),
) -> BlankPropagation:
    """Follow the blank channels of one set through the whole model.

    Args:
        trace: the target's.
        group: the set; `expansions` has its blanks.
        blank: what its writers are to leave there.
        expansions: how each set of channels grows.
        zeroed: parameters that growth sets to zero.
        transformed: weights that go through a function before use -> where.
    """
    writers = writers_of_norms(trace, group, zeroed) if blank != "open" else Writers()
    if blank == "mean":  # a mean needs no centring, only scales out of the way
        writers = Writers(tuple((name, scale) for name, scale in writers.folded if scale is not None))
    return _run(BlankPass(trace, group, blank, expansions, zeroed, writers), transformed)


def _run(blanks: BlankPass, transformed: Mapping[str, str]) -> BlankPropagation:
    """The whole pass, operation by operation."""
    forward = blanks.trace.forward
    gains = multipliers(blanks.trace)
    shifts = norm_shifts(blanks.trace) if blanks.blank == "mean" else frozenset()
    for number, names in forward.stored.items():
        blanks.states[number] = _stored(blanks, number, names, gains, shifts)
    for name, module in transformed.items():
        if any(blanks.group in groups_on(axis) for axis in blanks.trace.tensors[name]):
            blanks.reasons.append((module, _TRANSFORMED))
    for step in forward.steps:
        numbers = (*step.ins, *step.outs)
        if any(n in blanks.carrying or blanks.state(n).value != "same" for n in numbers):
            _take(blanks, step)
    require_gains_of_their_own(blanks)
    blanks.reasons += [
        ("", "the model returns the channels themselves, not through a norm")
        for number in forward.outputs
        if number in blanks.carrying and blanks.state(number).value != "same"
    ]
    return BlankPropagation(
        blanks.blank, tuple(dict.fromkeys(blanks.reasons)), tuple(dict.fromkeys(blanks.nearly)),
        tuple(dict.fromkeys(blanks.norms)), blanks.writers, frozenset(blanks.read - blanks.nonzero_readers), gains,
    )  # fmt: skip


def _stored(
    blanks: BlankPass, number: int, names: tuple[str, ...], gains: frozenset[str], shifts: frozenset[str]
) -> AbstractState:
    folded = dict(blanks.writers.folded)
    levels = {scale for scale in folded.values() if scale}
    rows: Blank | None = None
    if number in blanks.carrying:
        shift = not shifts.isdisjoint(names)
        vector = len(blanks.trace.forward.layouts[number]) == 1 and blanks.blank == "open"  # which is filled with zeros
        reads = blanks.times(number) == 1 and not blanks.readers.isdisjoint(names)
        rows = "open" if gains.issuperset(names) else "silent" if shift or reads or vector else blanks.blank
        if rows == "mean" and not writes_alone(blanks.trace, blanks.group, number):
            rows = "open"  # the mean that is written there is one over other channels, too
    if blanks.zeroed.issuperset(names):
        return AbstractState(rows and "silent", "zero")
    if names[0] in folded:
        scale = folded[names[0]]
        return AbstractState(rows, "unscaled" if scale else "centred", scale)
    if levels.intersection(names):
        return AbstractState(rows, "level", names[0])
    return AbstractState(rows)


def _take(blanks: BlankPass, step: Step) -> None:
    state = after(blanks, step)
    if not step.op.sums_products and step.outs[0] not in blanks.trace.forward.made_of:
        for number in step.ins:
            blanks.needs_zeros(number)
    for number in step.outs:
        blanks.states[number] = replace(state, rows=state.rows or "open" if number in blanks.carrying else None)
    for number in step.overwritten:
        before = blanks.state(number)
        now = blanks.states[step.outs[0]]
        blanks.states[number] = before if before == now else AbstractState(before.rows and "open", blanks.lost(step))
