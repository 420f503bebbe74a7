"""What is known of the tensors of a pass while blank channels are followed through it (`prove.blanks.propagation`).

`AbstractState` is the abstract value of a tensor, `BlankPass` the pass under way: it holds a state per tensor, and how
states combine in sums and in functions of each value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from growtool.algebra.expansion import Blank, Expansion, Fill
from growtool.algebra.rewrite import RescaledNorm
from growtool.trace import Axis, ChannelGroup, Trace, groups_on
from growtool.trace.reading.norms import multipliers, norm_shifts
from growtool.trace.steps import Step, is_finite_at_zero
from growtool.trace.table.kinds import Kind, keeps_zero

Value = Literal["same", "centred", "unscaled", "level", "zero", "other"]

INFINITE = "new channels that are zero become infinite"


@dataclass(frozen=True, slots=True)
class AbstractState:
    """What is known of a tensor.

    Attributes:
        rows: what its blank channels hold; None for a tensor without the channels.
        value: what its old channels hold:
            `same`: the source's values;
            `centred`: these less their mean over channels;
            `unscaled`: values whose scale per channel has been folded into their writers, but for its root mean square,
                the level, which they are still to be multiplied by; centred besides, unless blanks hold a mean;
            `level`: the level in each channel, which stands where the scale stood;
            `zero`: zeros;
            `other`: anything else, for a reason that has been noted.
        scale: name of the scale, for `unscaled` and `level`.
    """

    rows: Blank | None = None
    value: Value = "same"
    scale: str | None = None


@dataclass
class BlankPass:
    """The pass under way: a state for every tensor met so far, and the reasons why the function changes.

    Attributes:
        trace: the target's.
        group: the channel group that is followed.
        blank: what its writers are to leave in blank channels.
        expansions: how each channel group grows.
        zeroed: parameters that growth sets to zero.
        writers: parameter that is centred before it grows -> the scale that it is multiplied by, or None.
        states: number of a tensor -> its state.
        reasons: module path and why the function changes there.
        nonzero_readers: parameters whose blank columns have to be zero, as they may meet anything.
        read: parameters that have been met reading the channels.
        norms: norms whose gain makes up for the blanks.
        means_left: norms whose shift is centred and whose gain leaves a mean: what they write is only nearly centred.
        carrying: numbers of the tensors that have the channels on some axis.
    """

    trace: Trace
    group: ChannelGroup
    blank: Blank
    expansions: Mapping[ChannelGroup, Expansion]
    zeroed: frozenset[str]
    writers: Mapping[str, str | None]
    states: dict[int, AbstractState] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    nonzero_readers: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    norms: list[RescaledNorm] = field(default_factory=list)
    means_left: list[str] = field(default_factory=list)

    @cached_property
    def carrying(self) -> frozenset[int]:
        return self.trace.forward.carrying(self.group)

    def carries(self, axes: Iterable[Axis]) -> bool:
        """Return whether the channels are on one of these axes."""
        return any(self.group in groups_on(axis) for axis in axes)

    def state(self, number: int) -> AbstractState:
        """Return the state of a tensor: one that is not known has the source's values, and anything at blanks."""
        return self.states.get(number) or AbstractState("open" if number in self.carrying else None)

    def states_of(self, step: Step) -> list[AbstractState]:
        """Return the states of the tensors that an operation reads."""
        return [self.state(number) for number in step.ins]

    def lost(self, step: Step, why: str = "") -> Value:
        """Note the reason why nothing is known of an operation's result, and return `other`."""
        self.reasons.append((step.module, why or f"{step.name} treats the new channels in a way that is not known"))
        return "other"

    def vanishes(self, step: Step) -> bool:
        """Return whether an operation of one tensor takes the channels off one of its axes, as a sum over them does."""
        return (
            len(step.ins) == 1 and step.ins[0] in self.carrying
            and any(self.occurrences(number) < self.occurrences(step.ins[0]) for number in step.outs)
        )  # fmt: skip

    @cached_property
    def readers(self) -> frozenset[str]:
        """Parameters that read the channels; their blank columns are zero, unless they meet zeros alone."""
        return frozenset(name for group, name, _ in self.trace.consumers if group is self.group)

    @cached_property
    def gains(self) -> frozenset[str]:
        """Parameters that only ever multiply channels."""
        return multipliers(self.trace)

    @cached_property
    def shifts(self) -> frozenset[str]:
        """Parameters that norms add."""
        return norm_shifts(self.trace)

    def fill(self, name: str) -> Fill:
        """Return what growth writes at the blank channels of a parameter or buffer where no sum runs over them."""
        if name in self.gains:
            return "mean"
        if self.blank == "mean":
            return "zero" if name in self.shifts else "mean"
        return "noise" if self.blank == "open" and len(self.trace.tensors[name]) > 1 else "zero"

    def needs_zeros(self, number: int) -> None:
        """Note that the blank columns of the parameters a tensor is made of have to be zero."""
        self.nonzero_readers |= self.readers & self.trace.forward.made_of.get(number, frozenset())

    def lies_on(self, number: int, dims: tuple[int, ...]) -> bool:
        """Return whether the channels are on one of these dimensions of a tensor."""
        axes = self.trace.forward.axes(number)
        return self.carries(axes[dim] for dim in dims)

    def occurrences(self, number: int) -> int:
        """Return how often the channels stand among the factors of a tensor's axes: twice in a square matrix."""
        return sum(group is self.group for axis in self.trace.forward.axes(number) for group in groups_on(axis))

    def joined(self, step: Step, states: list[AbstractState]) -> AbstractState:
        """Return the state of a sum or a concatenation of tensors with these states; zeros go with any other."""
        present = [state for state in states if state.value != "zero"] or states
        rows = {state.rows for state in present if state.rows is not None}
        value: Value = present[0].value
        if len({(state.value, state.scale) for state in present}) > 1:
            value = self.lost(step, "what is centred meets what cannot be (no linear layer wrote it)")
        return AbstractState(rows.pop() if len(rows) == 1 else "open", value, present[0].scale)

    def elementwise(self, step: Step, states: list[AbstractState]) -> AbstractState:
        """Return the state of a function of each value, or of each channel over other axes.

        It needs the source's values: a nonlinear function of centred channels is not that of the channels.
        """
        rows: Blank = "silent" if keeps_zero(step) and states[0].rows == "silent" else "open"
        if all(state.value == "zero" for state in states) and keeps_zero(step):
            return AbstractState(rows, "zero")
        known = step.op.pointwise or step.op.per_channel or keeps_zero(step)
        if any(state.value in ("centred", "unscaled", "level") for state in states):
            return AbstractState(
                "open", self.lost(step, f"{step.name} reads the channels themselves, not through a norm")
            )
        if step.op.pointwise and len(states) == 1 and states[0].rows == "silent" and not is_finite_at_zero(step):
            return AbstractState("open", self.lost(step, INFINITE))
        if step.op.kind in (Kind.SOFTMAX, Kind.LOG_SOFTMAX) and not self._along(step):
            return AbstractState("open")  # along another axis: each channel by itself
        return AbstractState(rows) if known else AbstractState("open", self.lost(step))

    def _along(self, step: Step) -> bool:
        """Return whether a softmax runs along the channels."""
        return self.group in groups_on(self.trace.forward.axes(step.ins[0])[step.args[1]])
