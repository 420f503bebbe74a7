"""What blank channels go through: the trace run once more on what is known of them.

A blank channel copies none. Its writers may leave it `silent` (zeros), `mean` (the mean of the old channels) or `open`
(anything). Which of these passes through an operation, and leaves the old channels what they were, depends on the
operation: ReLU keeps zeros, a sigmoid does not; a LayerNorm keeps zeros if the old channels have mean zero; a product
of two activations keeps nothing. Each operation is asked in turn. Where one cannot answer, the reason is kept: the
growth is lossy there.

What is known of a tensor is a `AbstractState`: of its blank channels (`rows`), and of its old ones (`value`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from growtool.algebra.expansion import Expansion
from growtool.prove.abstract_state import AbstractState, Blank
from growtool.prove.blank_norms import Norms, RescaledNorm, multipliers, norm_call, norm_shifts
from growtool.prove.writers import Writers, writers_of_norms
from growtool.trace import ChannelGroup, Trace, groups_on
from growtool.trace.factors import is_convolution, operands_of
from growtool.trace.kinds import Kind, is_linear_per_channel
from growtool.trace.steps import Ref, Step

_NEVER = {  # operations that no blank channel passes, whatever is in it
    "weight": "weights are transformed (standardised, say) before use",
    "constant": "the new channels are summed with numbers that are no parameter's own",
    "batch_norm": "a norm takes its statistics over the new channels",
}


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
) -> BlankPropagation:
    """Follow the blank channels of one set through the whole model.

    Args:
        trace: the target's.
        group: the set; `expansions` has its blanks.
        blank: what its writers are to leave there.
        expansions: how each set of channels grows.
        zeroed: parameters that growth sets to zero.
    """
    writers = writers_of_norms(trace, group, zeroed) if blank != "open" else Writers()
    if blank == "mean":  # a mean needs no centring, only scales out of the way
        writers = Writers(tuple((name, scale) for name, scale in writers.folded if scale is not None))
    return _Run(trace, group, blank, expansions, zeroed, writers).run()


class _Run(Norms):
    """The whole pass, operation by operation."""

    def run(self) -> BlankPropagation:
        forward = self.trace.forward
        gains = multipliers(self.trace)
        for number, names in forward.stored.items():
            self.states[number] = self._stored(number, names, gains)
        for joint in self.trace.joint_ops:
            if joint.kind in _NEVER and self.group in groups_on(joint.axis):
                self.reasons.append((joint.module, _NEVER[joint.kind]))
        for step in forward.steps:
            numbers = (*step.ins, *step.outs)
            if any(n in self._carrying or self._state(n).value != "same" for n in numbers):
                self._take(step)
        self._require_gains_of_their_own()
        self.reasons += [
            ("", "the model returns the channels themselves, not through a norm")
            for number in forward.outputs
            if number in self._carrying and self._state(number).value != "same"
        ]
        return BlankPropagation(
            self.blank, tuple(dict.fromkeys(self.reasons)), tuple(dict.fromkeys(self.nearly)),
            tuple(dict.fromkeys(self.norms)), self.writers, frozenset(self.read - self.nonzero_readers), gains,
        )  # fmt: skip

    def _stored(self, number: int, names: tuple[str, ...], gains: frozenset[str]) -> AbstractState:
        folded = dict(self.writers.folded)
        levels = {scale for scale in folded.values() if scale}
        rows: Blank | None = None
        if number in self._carrying:
            shift = self.blank == "mean" and any(name in norm_shifts(self.trace) for name in names)
            rows = "open" if gains.issuperset(names) else "silent" if shift else self.blank
        if self.zeroed.issuperset(names):
            return AbstractState(rows and "silent", "zero")
        if names[0] in folded:
            scale = folded[names[0]]
            return AbstractState(rows, "unscaled" if scale else "centred", scale)
        if levels.intersection(names):
            return AbstractState(rows, "level", names[0])
        return AbstractState(rows)

    def _take(self, step: Step) -> None:
        state = self._after(step)
        for number in step.outs:
            self.states[number] = replace(state, rows=state.rows or "open" if number in self._carrying else None)
        for number in step.overwritten:
            before = self._state(number)
            after = self.states[step.outs[0]]
            self.states[number] = before if before == after else AbstractState(before.rows and "open", self._lost(step))

    def _after(self, step: Step) -> AbstractState:
        states = [self._state(number) for number in step.ins]
        if any(state.value == "other" for state in states):
            return AbstractState("open", "other")
        norm = norm_call(step, self.trace.forward)
        if norm is not None and self._over(norm.x, norm.dims):
            return self._normed(step, norm)
        if step.op.kind is Kind.BATCH_NORM:
            return self._batch_normed(step)
        if step.op.kind is Kind.ATTENTION:
            return self._attended(step)
        if operands_of(step) is not None:
            return self._multiplied(step)
        if is_convolution(step):
            return self._grouped(step)
        if self._vanishes(step):
            return self._reduced(step, states)
        if step.op.kind is Kind.ADD:
            return self._added(step, states)
        if step.op.kind is Kind.MULTIPLY:
            return self._scaled(step, states)
        if is_linear_per_channel(step):
            carrying = [s for n, s in zip(step.ins, states, strict=True) if n in self._carrying]
            others = [s for n, s in zip(step.ins, states, strict=True) if n not in self._carrying]
            if all(state.value in ("same", "zero") for state in others):
                return self._together(step, carrying or others)
        return self._elementwise(step, states)

    def _reduced(self, step: Step, states: list[AbstractState]) -> AbstractState:
        silent = states[0].rows == "silent" and states[0].value in ("same", "zero")
        alone = self.expansions[self.group].copies == 1
        if silent and step.op.kind is Kind.SUM and alone:
            return AbstractState()
        return AbstractState(None, self._lost(step, f"{step.name} over the new channels"))

    def _added(self, step: Step, states: list[AbstractState]) -> AbstractState:
        carrying = [state for number, state in zip(step.ins, states, strict=True) if number in self._carrying]
        scalar = step.args[1]
        if len(states) == 2 and len(carrying) == 2:
            return self._together(step, states)
        if isinstance(scalar, int | float) and scalar == 0:
            return states[0]
        alone = len(carrying) == 1 and all(s.value == "zero" for s in states if s is not carrying[0])
        return carrying[0] if alone and len(states) == 2 else self._elementwise(step, states)

    def _scaled(self, step: Step, states: list[AbstractState]) -> AbstractState:
        if len(states) == 1:
            return states[0] if isinstance(step.args[0], Ref) else self._elementwise(step, states)
        pairs = list(zip(step.ins, states, strict=True))
        carrying = [state for number, state in pairs if number in self._carrying]
        others = [state for number, state in pairs if number not in self._carrying]
        if step.name == "div" and step.ins[1] in self._carrying:
            return self._elementwise(step, states)
        if any(state.value == "zero" for state in states):
            return AbstractState("silent", "zero")
        if len(carrying) == 1 and others[0].value == "same":
            return carrying[0]
        for scale, scaled in (states, states[::-1]):
            if scale.value == "level" and scaled.value == "unscaled" and scale.scale == scaled.scale:
                return AbstractState(scaled.rows, "same" if self.blank == "mean" else "centred")
        rows: Blank = "silent" if any(state.rows == "silent" for state in carrying) else "open"
        return replace(self._elementwise(step, states), rows=rows)
