"""Blank channels through norms, and what makes up for them there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from growtool.algebra.expansion import Expansion
from growtool.prove.abstract_state import AbstractState
from growtool.prove.blank_products import Products
from growtool.trace import Axis, ChannelGroup, Trace, groups_on
from growtool.trace.kinds import Kind
from growtool.trace.steps import ForwardPass, Ref, Step

_NORMS: dict[Kind, Literal["LayerNorm", "RMSNorm"]] = {Kind.LAYER_NORM: "LayerNorm", Kind.RMS_NORM: "RMSNorm"}


@dataclass(frozen=True, slots=True)
class RescaledNorm:
    """A norm over old channels and blanks: its mean square falls by `s`, so its gain becomes gain * sqrt(s).

    Attributes:
        module: its path.
        gains: names of its gain.
        s: copies of the old positions over all positions, below 1.
        eps: what the target's norm adds to the variance; it would have to be that of the source times s.
    """

    module: str
    gains: tuple[str, ...]
    s: float
    eps: float


@dataclass(frozen=True, slots=True)
class NormCall:
    """A norm over the channels of each position.

    Attributes:
        kind: what it is called.
        x: the tensor it normalises.
        dims: dimensions of x that hold channels.
        gain, shift: what it multiplies by and adds, None without.
        eps: what it adds to the variance; None where it has a default of its own.
    """

    kind: Literal["LayerNorm", "RMSNorm"]
    x: int
    dims: tuple[int, ...]
    gain: int | None
    shift: int | None
    eps: float | None


def norm_call(step: Step, forward: ForwardPass) -> NormCall | None:
    """A step as a norm over the channels of each position, None for anything else.

    A GroupNorm is none: it has one mean for all positions, and so sees what centring takes off at each of them.
    """
    kind = _NORMS.get(step.op.kind)
    if kind is None or step.op.eps is None:
        return None
    x, last = step.args[0].number, len(forward.layouts[step.args[0].number])
    gain, *shifts = (step.arg(place, name) for place, name in zip(step.op.affine, ("weight", "bias"), strict=False))
    shift, eps = next(iter(shifts), None), step.args[step.op.eps]
    return NormCall(
        kind=kind,
        x=x,
        dims=tuple(range(last - len(step.args[1]), last)),
        gain=gain.number if isinstance(gain, Ref) else None,
        shift=shift.number if isinstance(shift, Ref) else None,
        eps=None if eps is None else float(eps),
    )


@dataclass
class Norms(Products):
    """What is known of the result of a norm.

    Attributes:
        norms: those whose gain makes up for the blanks.
        nearly: those that write the channels themselves, and leave a mean.
    """

    norms: list[RescaledNorm] = field(default_factory=list)
    nearly: list[str] = field(default_factory=list)

    def _batch_normed(self, step: Step) -> AbstractState:
        x, *affine = (self._state(leaf.number) for leaf in step.args[:5] if isinstance(leaf, Ref))
        if x.value not in ("same", "zero"):
            return AbstractState("open", self._lost(step, "BatchNorm reads the channels themselves, one by one"))
        shifts = [self._state(step.args[i].number) for i in (2, 3) if isinstance(step.args[i], Ref)]
        if affine and all(state.value == "zero" for state in affine[: 2 if len(affine) > 2 else 1]):
            return AbstractState("silent", "zero")
        return AbstractState("silent" if x.rows == "silent" and all(s.rows == "silent" for s in shifts) else "open")

    def _normed(self, step: Step, norm: NormCall) -> AbstractState:
        x = self._state(norm.x)
        affine = [self._state(number) for number in (norm.gain, norm.shift) if number is not None]
        if affine and all(state.value == "zero" for state in affine):
            return AbstractState("silent", "zero")
        if not self._fits(x, norm.kind):
            return AbstractState("open", self._lost(step, _unfit(norm.kind, x)))
        axes = self.trace.forward.axes(norm.x)
        share = _share_of_copies(tuple(axes[dim] for dim in norm.dims), self.group, self.expansions)
        names = self.trace.forward.stored.get(norm.gain) if norm.gain is not None else None
        if share is None or names is None or norm.eps is None:
            lacks = "without a gain of its own" if names is None else "over channels that grow in different ways"
            return AbstractState("open", self._lost(step, f"{norm.kind} {lacks}"))
        self.norms.append(RescaledNorm(step.module, names, share, norm.eps))
        if norm.shift is None:
            return AbstractState("silent")
        added = self._state(norm.shift)
        if added.value == "centred":
            self.nearly.append(step.module)
        return AbstractState("silent" if added.rows == "silent" else "open", added.value)

    def _fits(self, x: AbstractState, kind: str) -> bool:
        if kind == "RMSNorm":
            return x.rows == "silent" and x.value == "same"
        return (x.rows == "silent" and x.value in ("centred", "zero")) or (
            x.rows == "mean" and x.value in ("same", "zero")
        )

    def _require_gains_of_their_own(self) -> None:
        """The gain of a rescaled norm must have no other use, and one factor."""
        factors = defaultdict[str, set[float]](set)
        for norm in self.norms:
            for name in norm.gains:
                factors[name].add(norm.s)
        used = Counter(
            name for step, number in self.trace.forward.uses if step.op.kind not in _NORMS
            for name in self.trace.forward.made_of[number]
        )  # fmt: skip
        self.reasons += [
            (name, "a norm's gain that is used in another place too")
            for name, found in factors.items()
            if len(found) > 1 or used[name]
        ]


def _unfit(kind: str, x: AbstractState) -> str:
    if x.rows == "open":
        return f"{kind} over new channels that do not stay zero"
    return f"{kind} over channels whose mean cannot be made zero (no linear layer wrote them)"


def _share_of_copies(
    axes: tuple[Axis, ...], group: ChannelGroup, expansions: Mapping[ChannelGroup, Expansion]
) -> float | None:
    """Of a norm's positions, the share that are copies; None where positions are not copied equally often."""
    if any(True for axis in axes[:-1] for _ in groups_on(axis)):
        return None
    old = new = 0
    copies = set()
    for segment in axes[-1]:
        each, before, after = 1, 1, 1
        if list(groups_on((segment,))).count(group) != 1:
            return None
        for factor in segment:
            if not isinstance(factor, ChannelGroup):
                return None
            expansion = expansions.get(factor)
            times = 1 if expansion is None else expansion.copies if factor is group else expansion.multiplicity
            if times is None:
                return None
            each, before, after = (
                each * times,
                before * (expansion.size if expansion else factor.size),
                after * factor.size,
            )
        copies.add(each)
        old, new = old + each * before, new + after
    return old / new if len(copies) == 1 else None


def multipliers(trace: Trace) -> frozenset[str]:
    """Parameters that only ever multiply what channels carry (gains, scales), and variances."""
    multiplies, other = set[str](), set[str]()
    for step, number in trace.forward.uses:
        names = trace.forward.made_of[number]
        (multiplies if _multiplies(step, number) else other).update(names)
    return frozenset(multiplies - other)


def _multiplies(step: Step, number: int) -> bool:
    def at(*places: int) -> bool:
        return any(
            isinstance(step.args[i], Ref) and step.args[i].number == number for i in places if i < len(step.args)
        )

    if step.op.kind in _NORMS:
        return at(step.op.affine[0])
    if step.op.kind is Kind.BATCH_NORM:
        return at(1, 4)
    return step.name == "mul"


def norm_shifts(trace: Trace) -> frozenset[str]:
    """What LayerNorms add."""
    found = set[str]()
    for step in trace.forward.steps:
        norm = norm_call(step, trace.forward)
        if norm is not None and norm.shift is not None:
            found.update(trace.forward.stored.get(norm.shift, ()))
    return frozenset(found)
