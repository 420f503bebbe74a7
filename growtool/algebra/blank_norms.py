"""Blank channels through norms, and what makes up for them there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from growtool.algebra.expansion import Expansion
from growtool.algebra.knowledge import State
from growtool.algebra.products import Products
from growtool.coupling import Atom, Axis, Coupling, atoms
from growtool.coupling.steps import Ref, Step

_NORMS = {"native_layer_norm": 2, "layer_norm": 2, "_fused_rms_norm": 2, "rms_norm": 2}  # where the gain stands
NORM_NAMES = frozenset(_NORMS)
BATCH_NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "batch_norm".split()
)


@dataclass(frozen=True, slots=True)
class RescaledNorm:
    """A norm over old channels and blanks: its mean square falls by `s`, so its gain becomes gain * sqrt(s).

    Attributes:
        module: its path.
        gains: names of its gain.
        s: copies of the old positions over all positions, below 1.
        eps: what it adds to the variance in the source; it would have to become eps * s.
    """

    module: str
    gains: tuple[str, ...]
    s: float
    eps: float


@dataclass
class Norms(Products):
    """What is known of the result of a norm.

    Attributes:
        norms: those whose gain makes up for the blanks.
        nearly: those that write the channels themselves, and leave a mean.
    """

    norms: list[RescaledNorm] = field(default_factory=list)
    nearly: list[str] = field(default_factory=list)

    def _batch_normed(self, step: Step) -> State:
        x, *affine = (self._state(leaf.number) for leaf in step.args[:5] if isinstance(leaf, Ref))
        if x.value not in ("same", "zero"):
            return State("open", self._lost(step, "BatchNorm reads the channels themselves, one by one"))
        shifts = [self._state(step.args[i].number) for i in (2, 3) if isinstance(step.args[i], Ref)]
        if affine and all(state.value == "zero" for state in affine[: 2 if len(affine) > 2 else 1]):
            return State("silent", "zero")
        return State("silent" if x.rows == "silent" and all(s.rows == "silent" for s in shifts) else "open")

    def _normed(self, step: Step) -> State:
        x = self._state(step.args[0].number)
        at = _NORMS[step.name]
        gain, shift = step.arg(at, "weight"), step.arg(at + 1, "bias") if "layer" in step.name else None
        affine = [self._state(leaf.number) for leaf in (gain, shift) if isinstance(leaf, Ref)]
        if affine and all(state.value == "zero" for state in affine):
            return State("silent", "zero")
        kind = "LayerNorm" if "layer" in step.name else "RMSNorm"
        if not self._fits(x, kind):
            return State("open", self._lost(step, _unfit(kind, x)))
        share = _share_of_copies(
            self.coupling.forward.axes(step.args[0].number), len(step.args[1]), self.atom, self.expansions
        )
        names = self.coupling.forward.stored.get(gain.number) if isinstance(gain, Ref) else None
        eps = step.arg(at + 2 if "layer" in step.name else at + 1, "eps")
        if share is None or names is None or eps is None:
            lacks = "without a gain of its own" if names is None else "over channels that grow in different ways"
            why = f"{kind} {lacks}"
            return State("open", self._lost(step, why))
        self.norms.append(RescaledNorm(step.module, names, share, float(eps)))
        if shift is None:
            return State("silent")
        added = self._state(shift.number)
        if added.value == "centred":
            self.nearly.append(step.module)
        return State("silent" if added.rows == "silent" else "open", added.value)

    def _fits(self, x: State, kind: str) -> bool:
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
            name for step, number in self.coupling.forward.uses() if step.name not in _NORMS
            for name in self.coupling.forward.made_of[number]
        )  # fmt: skip
        self.reasons += [
            (name, "a norm's gain that is used in another place too")
            for name, found in factors.items()
            if len(found) > 1 or used[name]
        ]


def _unfit(kind: str, x: State) -> str:
    if x.rows == "open":
        return f"{kind} over new channels that do not stay zero"
    return f"{kind} over channels whose mean cannot be made zero (no linear layer wrote them)"


def _share_of_copies(
    axes: tuple[Axis, ...], count: int, atom: Atom, expansions: Mapping[Atom, Expansion]
) -> float | None:
    """Of a norm's positions, the share that are copies; None where positions are not copied equally often."""
    if any(True for axis in axes[-count:-1] for _ in atoms(axis)):
        return None
    old = new = 0
    copies = set()
    for segment in axes[-1]:
        each, before, after = 1, 1, 1
        if list(atoms((segment,))).count(atom) != 1:
            return None
        for factor in segment:
            if not isinstance(factor, Atom):
                return None
            expansion = expansions.get(factor)
            times = 1 if expansion is None else expansion.copies if factor is atom else expansion.multiplicity
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


def multipliers(coupling: Coupling) -> frozenset[str]:
    """Parameters that only ever multiply what channels carry (gains, scales), and variances."""
    multiplies, other = set[str](), set[str]()
    for step, number in coupling.forward.uses():
        names = coupling.forward.made_of[number]
        (multiplies if _multiplies(step, number) else other).update(names)
    return frozenset(multiplies - other)


def _multiplies(step: Step, number: int) -> bool:
    def at(*places: int) -> bool:
        return any(
            isinstance(step.args[i], Ref) and step.args[i].number == number for i in places if i < len(step.args)
        )

    if step.name in _NORMS:
        return at(2)
    if step.name in BATCH_NORMS:
        return at(1, 4)
    return step.name == "mul"


def norm_shifts(coupling: Coupling) -> frozenset[str]:
    """What LayerNorms add."""
    found = set[str]()
    for step in coupling.forward.steps:
        if step.name in ("native_layer_norm", "layer_norm") and isinstance(step.arg(3, "bias"), Ref):
            found.update(coupling.forward.stored.get(step.arg(3, "bias").number, ()))
    return frozenset(found)
