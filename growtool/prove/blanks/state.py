"""What is known of the tensors of a pass while blank channels are followed through it (`prove.blanks.propagation`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from growtool.algebra.expansion import Blank, Expansion
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.blanks.writers import Writers
from growtool.trace import ChannelGroup, Trace, groups_on
from growtool.trace.steps import Step, is_finite_at_zero
from growtool.trace.table.kinds import Kind, keeps_zero

Value = Literal["same", "centred", "unscaled", "level", "zero", "other"]

INFINITE = "new channels that are zero become infinite"


@dataclass(frozen=True, slots=True)
class AbstractState:
    """What is known of a tensor.

    Attributes:
        rows: its blank channels; None where it has none.
        value: its old channels: the `same` as in the source; `centred`: their mean over channels taken off; `unscaled`:
            to be multiplied by `scale` yet, with `level` the constant that scale has become; `zero`; or `other`.
        scale: the scale per channel that was folded into its writers.
    """

    rows: Blank | None = None
    value: Value = "same"
    scale: str | None = None


@dataclass
class BlankPass:
    """A state for every tensor met so far, and the reasons why some are not known.

    Attributes:
        trace: the target's.
        group: the set of channels that is followed.
        blank: what its writers are to leave in blank channels.
        expansions: how each set of channels grows.
        zeroed: parameters that growth sets to zero.
        writers: what is centred, or freed of its scale, before it grows.
        states: by the tensor's number.
        reasons: module path and why the function changes there.
        nonzero_readers: parameters that meet something else than zeros at their blank columns.
        read: parameters that read the channels.
        norms: norms whose gain makes up for the blanks.
        nearly: norms that write the channels themselves, and leave a mean.
        carrying: numbers of the tensors that have the channels on some axis.
    """

    trace: Trace
    group: ChannelGroup
    blank: Blank
    expansions: Mapping[ChannelGroup, Expansion]
    zeroed: frozenset[str]
    writers: Writers
    states: dict[int, AbstractState] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    nonzero_readers: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    norms: list[RescaledNorm] = field(default_factory=list)
    nearly: list[str] = field(default_factory=list)

    @cached_property
    def carrying(self) -> set[int]:
        layouts = self.trace.forward.layouts
        return {n for n, axes in layouts.items() if any(self.group in groups_on(axis) for axis in axes)}

    def state(self, number: int) -> AbstractState:
        """What is known of a tensor."""
        return self.states.get(number) or AbstractState("open" if number in self.carrying else None)

    def states_of(self, step: Step) -> list[AbstractState]:
        """What is known of what an operation reads."""
        return [self.state(number) for number in step.ins]

    def lost(self, step: Step, why: str = "") -> Value:
        """`other`, with the reason why."""
        self.reasons.append((step.module, why or f"{step.name} treats the new channels in a way that is not known"))
        return "other"

    def vanishes(self, step: Step) -> bool:
        """Whether a single tensor's channels are gone from one of its axes: they were summed over, or so."""
        return (
            len(step.ins) == 1 and step.ins[0] in self.carrying
            and any(self.times(number) < self.times(step.ins[0]) for number in step.outs)
        )  # fmt: skip

    @cached_property
    def readers(self) -> frozenset[str]:
        """Parameters that read the channels, in columns that are zero at new ones unless these meet zeros alone."""
        return frozenset(name for group, name, _ in self.trace.consumers if group is self.group)

    def needs_zeros(self, number: int) -> None:
        """New columns of the parameters that a tensor is made of have to be zero."""
        self.nonzero_readers |= self.readers & self.trace.forward.made_of.get(number, frozenset())

    def over(self, number: int, dims: tuple[int, ...]) -> bool:
        """Whether the channels are on one of these dimensions of a tensor."""
        axes = self.trace.forward.axes(number)
        return any(self.group in groups_on(axes[dim]) for dim in dims)

    def times(self, number: int) -> int:
        """How often the channels stand among the factors of a tensor's axes."""
        return sum(group is self.group for axis in self.trace.forward.axes(number) for group in groups_on(axis))

    def together(self, step: Step, states: list[AbstractState]) -> AbstractState:
        """What holds of a sum or a concatenation of the tensors: zeros take part in anything."""
        present = [state for state in states if state.value != "zero"] or states
        rows = {state.rows for state in present if state.rows is not None}
        value: Value = present[0].value
        if len({(state.value, state.scale) for state in present}) > 1:
            value = self.lost(step, "what is centred meets what cannot be (no linear layer wrote it)")
        return AbstractState(rows.pop() if len(rows) == 1 else "open", value, present[0].scale)

    def elementwise(self, step: Step, states: list[AbstractState]) -> AbstractState:
        """A function of each value, or of each channel over other axes: it takes the source's values."""
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
            return AbstractState("open")
        return AbstractState(rows) if known else AbstractState("open", self.lost(step))

    def _along(self, step: Step) -> bool:
        return self.group in groups_on(self.trace.forward.axes(step.ins[0])[step.args[1]])
