"""Blank channels followed through the whole model: the trace run once more, on an `AbstractState` per tensor.

A blank channel copies none. Its writers may leave it `silent` (zeros), `mean` (the mean of the old channels) or `open`
(anything). Whether an operation passes that on, and leaves the old channels what they were, depends on the operation:
ReLU keeps zeros, a sigmoid does not; a LayerNorm keeps zeros if the old channels have mean zero; a product of two
activations keeps nothing. Each kind of operation has a function for it (`prove.blanks.transfer`). Where nothing is
known of a result, the reason is kept: the growth is lossy there.

This is an abstract interpretation: a state tells of a tensor's blank channels (`rows`) and of its old ones (`value`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from growtool.algebra.expansion import Blank, Expansion, Fill
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.blanks.norms import require_gains_of_their_own
from growtool.prove.blanks.state import AbstractState, BlankPass
from growtool.prove.blanks.transfer import state_after
from growtool.prove.blanks.writers import writers_of_norms, writes_alone
from growtool.trace import ChannelGroup, Trace
from growtool.trace.steps import Step

_TRANSFORMED = "weights are transformed (standardised, say) before use"


@dataclass(frozen=True)
class BlankPropagation:
    """What became of the blank channels of one group.

    Attributes:
        blank: what the writers leave there.
        reasons: module path and why the function changes there.
        means_left: norms that write the channels, where a small mean remains that no centring of their shift takes off.
        norms: norms whose gain makes up for the blanks.
        writers: parameter to centre (for `mean`: only to multiply by a scale) before it grows -> the scale to fold into
            it, or None.
        free: parameters that meet zeros alone at the blank columns they read, so that these may hold anything.
        fills: tensor with the channels -> what growth writes at the blank ones where no sum runs over them.
    """

    blank: Blank
    reasons: tuple[tuple[str, str], ...]
    means_left: tuple[str, ...]
    norms: tuple[RescaledNorm, ...]
    writers: Mapping[str, str | None]
    free: frozenset[str]
    fills: Mapping[str, Fill]


def propagate_blanks(
    trace: Trace,
    group: ChannelGroup,
    blank: Blank,
    expansions: Mapping[ChannelGroup, Expansion],
    zeroed: frozenset[str],
    transformed: Mapping[str, str],
) -> BlankPropagation:
    """Follow the blank channels of one group through the whole model.

    Args:
        trace, group, blank, expansions, zeroed: as in `BlankPass`.
        transformed: weight that goes through a function before use -> the module.
    """
    writers = writers_of_norms(trace, group, zeroed) if blank != "open" else {}
    # The mean of channels passes through sums as it is, but not through a scale: mean(gamma y) != gamma mean(y).
    if blank == "mean":
        writers = {name: scale for name, scale in writers.items() if scale is not None}
    return _run(BlankPass(trace, group, blank, expansions, zeroed, writers), transformed)


def _run(blanks: BlankPass, transformed: Mapping[str, str]) -> BlankPropagation:
    """Run the pass, operation by operation."""
    forward = blanks.trace.forward
    for number, names in forward.stored.items():
        blanks.states[number] = _stored(blanks, number, names)
    for name, module in transformed.items():
        if blanks.carries(blanks.trace.tensors[name]):
            blanks.reasons.append((module, _TRANSFORMED))
    for step in forward.steps:
        numbers = (*step.ins, *step.outs)
        # all other operations do what they do in the source
        if any(n in blanks.carrying or blanks.state(n).value != "same" for n in numbers):
            _take(blanks, step)
    require_gains_of_their_own(blanks)
    blanks.reasons += [
        ("", "the model returns the channels themselves, not through a norm")
        for number in forward.outputs
        if number in blanks.carrying and blanks.state(number).value != "same"
    ]
    return BlankPropagation(
        blanks.blank, tuple(dict.fromkeys(blanks.reasons)), tuple(dict.fromkeys(blanks.means_left)),
        tuple(dict.fromkeys(blanks.norms)), blanks.writers, frozenset(blanks.read - blanks.nonzero_readers),
        {name: blanks.fill(name) for name, axes in blanks.trace.tensors.items() if blanks.carries(axes)},
    )  # fmt: skip


def _stored(blanks: BlankPass, number: int, names: tuple[str, ...]) -> AbstractState:
    """Return the state of a parameter or buffer, which may have several names, as growth will make it."""
    folded = blanks.writers
    levels = {scale for scale in folded.values() if scale}
    rows = _rows_of_stored(blanks, number, names) if number in blanks.carrying else None
    if blanks.zeroed.issuperset(names):
        return AbstractState(rows and "silent", "zero")
    if names[0] in folded:
        scale = folded[names[0]]
        return AbstractState(rows, "unscaled" if scale else "centred", scale)
    if levels.intersection(names):
        return AbstractState(rows, "level", names[0])
    return AbstractState(rows)


def _rows_of_stored(blanks: BlankPass, number: int, names: tuple[str, ...]) -> Blank:
    """Return what a parameter or buffer with the channels holds at blanks."""
    if blanks.gains.issuperset(names):
        return "open"
    reads = blanks.occurrences(number) == 1 and not blanks.readers.isdisjoint(names)
    if reads or blanks.fill(names[0]) == "zero":
        return "silent"
    if blanks.blank == "mean" and not writes_alone(blanks.trace, blanks.group, number):
        return "open"  # the mean that is written there is one over other channels, too
    return blanks.blank


def _take(blanks: BlankPass, step: Step) -> None:
    """Take in one operation: keep the states of its results, and of what shares the memory it wrote."""
    state = state_after(blanks, step)
    # A parameter that reads the channels in one place may be used otherwise here (tied embeddings): then its blank
    # columns may not hold anything, as they could if they only met zeros.
    if not step.op.sums_products and step.outs[0] not in blanks.trace.forward.made_of:
        for number in step.ins:
            blanks.needs_zeros(number)
    for number in step.outs:
        blanks.states[number] = replace(state, rows=state.rows or "open" if number in blanks.carrying else None)
    for number in step.overwritten:
        before = blanks.state(number)
        now = blanks.states[step.outs[0]]
        blanks.states[number] = before if before == now else AbstractState(before.rows and "open", blanks.lost(step))
