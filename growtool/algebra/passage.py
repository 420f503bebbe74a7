"""What blank channels go through: the trace run once more on what is known of them.

A blank channel copies none. Its writers may leave it `silent` (zeros), `mean` (the mean of the old channels) or `open`
(anything). Which of these passes through an operation, and leaves the old channels what they were, depends on the
operation: ReLU keeps zeros, a sigmoid does not; a LayerNorm keeps zeros if the old channels have mean zero; a product
of two activations keeps nothing. Each operation is asked in turn. Where one cannot answer, the reason is kept: the
growth is lossy there.

What is known of a tensor is a `State`: of its blank channels (`rows`), and of its old ones (`value`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from growtool.algebra.expansion import Expansion
from growtool.algebra.linear import (
    bias_of,
    is_convolution,
    is_linear_per_channel,
    keeps_zero,
    operands_of,
    summed_dims,
)
from growtool.algebra.writers import Writers, writers_of_norms
from growtool.coupling import Atom, Axis, Coupling, atoms
from growtool.coupling.steps import Ref, Step

Blank = Literal["silent", "mean", "open"]
Value = Literal["same", "centred", "unscaled", "level", "zero", "other"]

_NORMS = {"native_layer_norm": 2, "layer_norm": 2, "_fused_rms_norm": 2, "rms_norm": 2}  # where the gain stands
NORM_NAMES = frozenset(_NORMS)
_BATCH_NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "batch_norm".split()
)
_NEVER = {  # operations that no blank channel passes, whatever is in it
    "weight": "weights are transformed (standardised, say) before use",
    "constant": "the new channels are summed with numbers that are no parameter's own",
    "batch_norm": "a norm takes its statistics over the new channels",
}
_SUMS_OF_SQUARES = frozenset(("linalg_vector_norm", "norm"))


@dataclass(frozen=True, slots=True)
class State:
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


@dataclass(frozen=True)
class Passage:
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


def passage(
    coupling: Coupling,
    atom: Atom,
    blank: Blank,
    expansions: Mapping[Atom, Expansion],
    zeroed: frozenset[str] = frozenset(),
) -> Passage:
    """Follow the blank channels of one set through the whole model.

    Args:
        coupling: the target's.
        atom: the set; `expansions` has its blanks.
        blank: what its writers are to leave there.
        expansions: how each set of channels grows.
        zeroed: parameters that growth sets to zero.
    """
    writers = writers_of_norms(coupling, atom, zeroed) if blank != "open" else Writers()
    if blank == "mean":  # a mean needs no centring, only scales out of the way
        writers = Writers(tuple((name, scale) for name, scale in writers.folded if scale is not None))
    return _Run(coupling, atom, blank, expansions, zeroed, writers).run()


@dataclass
class _Run:
    coupling: Coupling
    atom: Atom
    blank: Blank
    expansions: Mapping[Atom, Expansion]
    zeroed: frozenset[str]
    writers: Writers
    states: dict[int, State] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    nearly: list[str] = field(default_factory=list)
    norms: list[RescaledNorm] = field(default_factory=list)
    loud: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)

    def run(self) -> Passage:
        forward = self.coupling.forward
        gains = multipliers(self.coupling)
        self._carrying = {
            number for number, axes in forward.layouts.items() if any(self.atom in atoms(axis) for axis in axes)
        }
        for number, names in forward.stored.items():
            self.states[number] = self._stored(number, names, gains)
        for mixing in self.coupling.mixings:
            if mixing.kind in _NEVER and self.atom in atoms(mixing.axis):
                self.reasons.append((mixing.module, _NEVER[mixing.kind]))
        for step in forward.steps:
            numbers = (*step.ins, *step.outs)
            if any(n in self._carrying or self._state(n).value != "same" for n in numbers):
                self._take(step)
        self._require_gains_of_their_own()
        return Passage(
            self.blank, tuple(dict.fromkeys(self.reasons)), tuple(dict.fromkeys(self.nearly)),
            tuple(dict.fromkeys(self.norms)), self.writers, frozenset(self.read - self.loud), gains,
        )  # fmt: skip

    def _stored(self, number: int, names: tuple[str, ...], gains: frozenset[str]) -> State:
        folded = dict(self.writers.folded)
        levels = {scale for scale in folded.values() if scale}
        rows: Blank | None = None
        if number in self._carrying:
            shift = self.blank == "mean" and any(name in norm_shifts(self.coupling) for name in names)
            rows = "open" if gains.issuperset(names) else "silent" if shift else self.blank
        if self.zeroed.issuperset(names):
            return State(rows and "silent", "zero")
        if names[0] in folded:
            scale = folded[names[0]]
            return State(rows, "unscaled" if scale else "centred", scale)
        if levels.intersection(names):
            return State(rows, "level", names[0])
        return State(rows)

    def _state(self, number: int) -> State:
        return self.states.get(number) or State("open" if number in self._carrying else None)

    def _take(self, step: Step) -> None:
        state = self._after(step)
        for number in step.outs:
            self.states[number] = replace(state, rows=state.rows or "open" if number in self._carrying else None)
        for number in step.overwritten:
            before = self._state(number)
            after = self.states[step.outs[0]]
            self.states[number] = before if before == after else State(before.rows and "open", self._lost(step))

    def _lost(self, step: Step, why: str = "") -> Value:
        """`other`, with the reason why."""
        self.reasons.append((step.module, why or f"{step.name} treats the new channels in a way that is not known"))
        return "other"

    def _after(self, step: Step) -> State:
        states = [self._state(number) for number in step.ins]
        if any(state.value == "other" for state in states):
            return State("open", "other")
        if step.name in _NORMS and self._over(step, len(step.args[1])):
            return self._normed(step)
        if step.name in _BATCH_NORMS:
            return self._batch_normed(step)
        if step.name == "scaled_dot_product_attention" or step.name.startswith("_scaled_dot_product"):
            return self._attended(step)
        if operands_of(step) is not None:
            return self._multiplied(step)
        if is_convolution(step):
            return self._grouped(step)
        if self._vanishes(step):
            return self._reduced(step, states)
        if step.name in ("add", "sub"):
            return self._added(step, states)
        if step.name in ("mul", "div"):
            return self._scaled(step, states)
        if is_linear_per_channel(step):
            carrying = [s for n, s in zip(step.ins, states, strict=True) if n in self._carrying]
            others = [s for n, s in zip(step.ins, states, strict=True) if n not in self._carrying]
            if all(state.value in ("same", "zero") for state in others):
                return self._together(step, carrying or others)
        return self._elementwise(step, states)

    def _elementwise(self, step: Step, states: list[State]) -> State:
        """A function of each value, or of each channel over other axes: it takes the source's values."""
        rows: Blank = "silent" if keeps_zero(step) and states[0].rows == "silent" else "open"
        if all(state.value == "zero" for state in states) and keeps_zero(step):
            return State(rows, "zero")
        known = step.pointwise or keeps_zero(step) or step.name in self._PER_CHANNEL
        if any(state.value in ("centred", "unscaled", "level") for state in states):
            return State("open", self._lost(step, f"{step.name} reads the channels themselves, not through a norm"))
        if step.name in ("softmax", "_softmax", "_safe_softmax", "_log_softmax") and not self._over_dim(step):
            return State("open")
        return State(rows) if known else State("open", self._lost(step))

    _PER_CHANNEL = frozenset(
        "where masked_fill softplus hardsigmoid hardtanh var std native_layer_norm layer_norm rms_norm fill zero "
        "zeros_like ones_like full_like empty_like new_zeros new_ones new_empty new_full".split()
    )

    def _over_dim(self, step: Step) -> bool:
        return self.atom in atoms(self.coupling.forward.axes(step.ins[0])[step.args[1]])

    def _over(self, step: Step, count: int) -> bool:
        """Whether the operation treats the last `count` axes together and the channels are among them."""
        return any(self.atom in atoms(axis) for axis in self.coupling.forward.axes(step.ins[0])[-count:])

    def _vanishes(self, step: Step) -> bool:
        """Whether a single tensor's channels are gone from one of its axes: they were summed over, or so."""
        return (
            len(step.ins) == 1 and step.ins[0] in self._carrying
            and any(self._times(number) < self._times(step.ins[0]) for number in step.outs)
        )  # fmt: skip

    def _times(self, number: int) -> int:
        """How often the channels stand among the factors of a tensor's axes."""
        return sum(atom is self.atom for axis in self.coupling.forward.axes(number) for atom in atoms(axis))

    def _reduced(self, step: Step, states: list[State]) -> State:
        silent = states[0].rows == "silent" and states[0].value in ("same", "zero")
        alone = self.expansions[self.atom].copies == 1
        if silent and (step.name in _SUMS_OF_SQUARES or step.name == "sum") and alone:
            return State()
        return State(None, self._lost(step, f"{step.name} over the new channels"))

    def _together(self, step: Step, states: list[State]) -> State:
        """What holds of a sum or a concatenation of the tensors: zeros take part in anything."""
        present = [state for state in states if state.value != "zero"] or states
        rows = {state.rows for state in present if state.rows is not None}
        value: Value = present[0].value
        if len({(state.value, state.scale) for state in present}) > 1:
            value = self._lost(step, "what is centred meets what cannot be (no linear layer wrote it)")
        return State(rows.pop() if len(rows) == 1 else "open", value, present[0].scale)

    def _added(self, step: Step, states: list[State]) -> State:
        carrying = [state for number, state in zip(step.ins, states, strict=True) if number in self._carrying]
        scalar = step.args[1]
        if len(states) == 2 and len(carrying) == 2:
            return self._together(step, states)
        if isinstance(scalar, int | float) and scalar == 0:
            return states[0]
        alone = len(carrying) == 1 and all(s.value == "zero" for s in states if s is not carrying[0])
        return carrying[0] if alone and len(states) == 2 else self._elementwise(step, states)

    def _scaled(self, step: Step, states: list[State]) -> State:
        if len(states) == 1:
            return states[0] if isinstance(step.args[0], Ref) else self._elementwise(step, states)
        pairs = list(zip(step.ins, states, strict=True))
        carrying = [state for number, state in pairs if number in self._carrying]
        others = [state for number, state in pairs if number not in self._carrying]
        if step.name == "div" and step.ins[1] in self._carrying:
            return self._elementwise(step, states)
        if any(state.value == "zero" for state in states):
            return State("silent", "zero")
        if len(carrying) == 1 and others[0].value == "same":
            return carrying[0]
        for scale, scaled in (states, states[::-1]):
            if scale.value == "level" and scaled.value == "unscaled" and scale.scale == scaled.scale:
                return State(scaled.rows, "same" if self.blank == "mean" else "centred")
        rows: Blank = "silent" if any(state.rows == "silent" for state in carrying) else "open"
        return replace(self._elementwise(step, states), rows=rows)

    def _multiplied(self, step: Step) -> State:
        operands = operands_of(step)
        assert operands is not None
        axes = [self.coupling.forward.axes(number) for number in operands]
        summed = summed_dims(step, (len(axes[0]), len(axes[1])))
        over = any(self.atom in atoms(own[dim]) for own, dim in zip(axes, summed, strict=True))
        free = [
            any(self.atom in atoms(axis) for i, axis in enumerate(own) if i != dim)
            for own, dim in zip(axes, summed, strict=True)
        ]
        return self._product(step, operands, over=over, free=free)

    def _product(self, step: Step, operands: tuple[int, int], *, over: bool, free: list[bool]) -> State:
        left, right = (self._state(number) for number in operands)
        if over:
            value = self._consumed(step, operands)
            if value == "other":
                return State("open", "other")
            # what is summed over is gone: only what an operand says of its rows remains
            left, right = (s if f else State() for s, f in zip((left, right), free, strict=True))
        carrying = [state for state, is_free in zip((left, right), free, strict=True) if is_free]
        others = [state for state, is_free in zip((left, right), free, strict=True) if not is_free]
        if any(state.value == "zero" for state in (left, right)):
            result = State("silent" if carrying else None, "zero")
        elif any(state.value != "same" for state in others) or (
            len(carrying) == 2 and any(state.value != "same" for state in carrying)
        ):
            return State("open", self._lost(step, "two activations are multiplied"))
        elif len(carrying) == 2:
            result = State("silent" if "silent" in (left.rows, right.rows) else "open")
        else:
            result = carrying[0] if carrying else State()
        return self._shifted(step, result)

    def _shifted(self, step: Step, result: State) -> State:
        bias = bias_of(step)
        if bias is None:
            return result
        if result.rows is None or bias in self._carrying:
            return self._together(step, [result, self._state(bias)])
        return self._elementwise(step, [replace(result, rows="open"), self._state(bias)])

    def _consumed(self, step: Step, operands: tuple[int, int]) -> Value:
        """A sum over these channels: by a parameter, whose new columns meet zeros or become so; or of activations."""
        forward = self.coupling.forward
        for weight, read in (operands[::-1], operands):
            names = forward.made_of.get(weight)
            if not names:
                continue
            state = self._state(read)
            self.read |= names
            if state.rows != "silent":
                self.loud |= names
            if state.value not in ("same", "zero"):
                return self._lost(step, "reads the channels themselves, not through a norm")
            return "same"
        states = [self._state(number) for number in operands]
        alone = self.expansions[self.atom].copies == 1
        if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
            return "same"
        return self._lost(step, "two activations are multiplied and summed over the new channels")

    def _grouped(self, step: Step) -> State:
        forward = self.coupling.forward
        x, weight = step.args[0].number, step.args[1].number
        rows, columns = forward.axes(weight)[:2] if not step.args[6] else forward.axes(weight)[1::-1]
        over = self.atom in atoms(columns)
        return self._product(
            step, (x, weight), over=over, free=[x in self._carrying and not over, self.atom in atoms(rows)]
        )

    def _attended(self, step: Step) -> State:
        query, key, value = (step.args[i].number for i in range(3))
        axes = self.coupling.forward.axes
        if self.atom in atoms(axes(query)[-1]):
            kept = self._consumed_by_attention(step, query, key)
            if kept == "other":
                return State("open", "other")
        elif any(self._state(number).value != "same" for number in (query, key)):
            return State("open", self._lost(step, "attention reads the channels themselves, not through a norm"))
        return self._state(value)

    def _consumed_by_attention(self, step: Step, query: int, key: int) -> Value:
        states = [self._state(query), self._state(key)]
        alone = self.expansions[self.atom].copies == 1
        if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
            return "same"
        return self._lost(step, "two activations are multiplied and summed over the new channels")

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
    if step.name in _BATCH_NORMS:
        return at(1, 4)
    return step.name == "mul"


def norm_shifts(coupling: Coupling) -> frozenset[str]:
    """What LayerNorms add."""
    found = set[str]()
    for step in coupling.forward.steps:
        if step.name in ("native_layer_norm", "layer_norm") and isinstance(step.arg(3, "bias"), Ref):
            found.update(coupling.forward.stored.get(step.arg(3, "bias").number, ()))
    return frozenset(found)
