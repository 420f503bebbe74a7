"""A pass followed for the factors of its values: what is known, what growth brings in, what can take it back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, copies_per_position
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.lockstep import Entry, Lockstep
from growtool.prove.scales.values import Factors, ScaledValues, simple
from growtool.trace import Axis, ChannelGroup, PairedAxis, Trace, Unchanged, groups_on
from growtool.trace.axes import axis_size
from growtool.trace.steps import Step


@dataclass(frozen=True, slots=True)
class JointOp:
    """An operation that treats the channels of an axis jointly, so that copies of a channel may change its result.

    Attributes:
        kind: `layer_norm`, `softmax`, `sum`, `product` (of two activations), ...
        module: path of the module it ran in.
        axis: the channels.
    """

    kind: str
    module: str
    axis: Axis


@dataclass
class ScalePass:
    """A pass under way.

    Attributes:
        lockstep: both passes side by side; the target's is followed.
        rows: first axis of each tensor that may be multiplied; of one without dimensions, an axis of one position.
        expansions: how each set of channels grows; those that stay may be absent.
        ratios: constant that is a multiple of the source's -> how many times as large it is.
        unsplit: weights whose columns are copied and not split.
        values: the factors and what is required of them.
        known: number of a tensor -> the factors of its values.
        unknown: tensor that may be multiplied -> the term of each of its parts.
        joint: joint operation -> the terms of what copies bring in there.
        norms: norms by a variance with N - 1 -> the term of what copies bring in there.
        copied: weight of `unsplit` -> the terms of what sums over its columns bring in.
        numbers: module and place of an entry -> the term of a number that is another, and the source's entry.
        constants: constant of `ratios` that the pass has met -> the term of its ratio.
        offsets: tensor that may be multiplied once a number is added to it -> the number.
        transformed: weight that goes through a function that a split of its columns does not pass -> where.
        copies_of: term of what copies bring in -> the channels.
        sums: term of what a sum with a weight brings in, or a weight's split -> the module or weight.
    """

    lockstep: Lockstep
    rows: Mapping[str, PairedAxis]
    expansions: Mapping[ChannelGroup, Expansion]
    ratios: Mapping[str, float]
    unsplit: frozenset[str]
    values: ScaledValues = field(default_factory=ScaledValues)
    known: dict[int, Factors] = field(default_factory=dict)
    unknown: dict[str, list[int]] = field(default_factory=dict)
    joint: defaultdict[JointOp, list[int]] = field(default_factory=lambda: defaultdict(list))
    norms: dict[RescaledNorm, int] = field(default_factory=dict)
    copied: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[tuple[str, int], tuple[int, Entry]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    transformed: dict[str, str] = field(default_factory=dict)
    sums: dict[int, str] = field(default_factory=dict)
    copies_of: dict[int, ChannelGroup] = field(default_factory=dict)
    _stored: dict[str, Factors] = field(default_factory=dict)

    @property
    def trace(self) -> Trace:
        """The target's."""
        return self.lockstep.target

    def of(self, number: int) -> Factors:
        """The factors of a tensor's values; 1 for an input or a constant."""
        if number not in self.known:
            names = self.trace.forward.stored.get(number, ())
            self.known[number] = self._parameter(names) if names else 0
        return self.known[number]

    def whole(self, number: int) -> Tensor:
        """The same as int64, one for each value."""
        return torch.as_tensor(self.of(number)).expand(self.shape(number))

    def shape(self, number: int) -> tuple[int, ...]:
        """The sizes of a tensor."""
        return tuple(map(axis_size, self.trace.forward.layouts[number]))

    def nonlinear(self, step: Step, numbers: Iterable[int]) -> None:
        """Operands go through a function that takes no factor."""
        numbers = list(numbers)
        for number in numbers:
            self.values.unscaled(self.of(number))
        self.transforms(step, numbers)

    def transforms(self, step: Step, numbers: Iterable[int]) -> None:
        """Operands go through a function that a split of columns does not pass, though other factors may."""
        for number in numbers:
            self.transformed |= dict.fromkeys(self.trace.forward.made_of.get(number, ()), step.module)

    def offset(self, step: Step) -> str | None:
        """The parameter that a number is added to, where nothing else reads it and it may be multiplied; else None."""
        number, forward = step.args[0].number, self.trace.forward
        names = forward.stored.get(number, ())
        alone = len(names) == 1 and names[0] in self.rows and len(forward.touched_by[number]) == 1
        return names[0] if alone else None

    def apart(self, step: Step, a: int, b: int) -> None:
        """Two tensors are multiplied: of weights alone, a split of one does not go with one of the other."""
        if all(self.trace.forward.made_of.get(number) for number in (a, b)):
            self.transforms(step, (a, b))

    def axis(self, number: int, dim: int) -> Axis:
        """An axis of a tensor."""
        return self.trace.forward.axes(number)[dim]

    def over(
        self,
        axis: Axis,
        brought: Iterable[list[int]],
        power: float = 1,
        *,
        split: bool = False,
        among: Callable[[ChannelGroup], bool] = lambda _: True,
    ) -> Factors:
        """What a sum over an axis multiplies by at each position: the copies of the channel, to a power.

        Args:
            axis: what is summed over.
            brought: lists that take in the terms.
            power: -1 for a mean or a split, 1/2 for a length.
            split: whether a weight may be split among the copies.
            among: the sets of channels that count.
        """
        if not any(group in self._copies for group in groups_on(axis)):
            return 0
        lists = list(brought)

        def times(group: ChannelGroup) -> int:
            if group not in self._copies or not among(group):
                return 0
            copies, uneven = self._copies[group]
            term = self._brought(copies**power, lists, uneven=uneven)
            self.copies_of[term] = group
            number = self.values.number_of(term)
            if uneven and not split:  # some terms count more often than others: no multiple of the source's sum
                self.values.unscaled(number)
            return number

        return self._along(axis, times)

    def joint_op(self, kind: str, step: Step, axis: Axis, power: float = 1) -> Factors:
        """The same for an operation of which weights may make up for copies."""
        return self.over(axis, [self.joint[JointOp(kind, step.module, axis)]], power)

    def jointly(self, kind: str, step: Step, number: int, dims: Iterable[int]) -> None:
        """Note an operation of which no weight makes up for copies."""
        for dim in dims:
            self.joint.setdefault(JointOp(kind, step.module, self.axis(number, dim)), [])

    def weighted(self, step: Step, weight: int, axis: Axis) -> Factors:
        """The same for a sum that a parameter has a part in."""
        copied = self.unsplit & self.trace.forward.made_of[weight]
        terms = list[int]()
        found = self.over(axis, [self.copied[name] for name in copied] or [terms], split=not copied)
        self.sums |= dict.fromkeys(terms, step.module)
        return found

    def rescaled(self, step: Step, axis: Axis, eps: float) -> int:
        """What a norm by a variance with N - 1 brings in over m copies of each channel.

        The variance is `r = (m N - m) / (m N - 1)` of what it was, and so is the eps that the norm needs.
        """
        terms = self.joint[JointOp(step.name, step.module, axis)]
        copies, size = copies_per_position(axis, self.expansions), axis_size(axis)
        if copies is None or not 1 < copies < size:
            return 0
        share = (size - copies) / (size - 1)
        term = self._brought(share**-0.5, [terms])
        self.norms[RescaledNorm(step.module, (), 0.0, share, eps)] = term
        return self.values.number_of(term)

    def number(self, step: Step, told: Callable[[Step], Any]) -> Factors:
        """What a multiplication by a number brings in where the source has another.

        Args:
            step: the operation.
            told: gives the number of it, or of the source's.
        """
        found = self.lockstep.counterpart(step)
        if found is None or step.entry is None:
            return 0
        own, source = told(step), told(found[0])
        if not isinstance(source, int | float) or own * source <= 0 or f"{own:.9g}" == f"{source:.9g}":
            return 0
        term = self._brought(source / own if step.name == "div" else own / source)
        self.numbers[step.module, step.entry] = term, found[1]
        return self.values.number_of(term)

    @cached_property
    def _copies(self) -> dict[ChannelGroup, tuple[float, bool]]:
        """How many copies channels have, blanks aside, and whether that is a mere name as they have unlike many."""
        found = {}
        for place, (group, expansion) in enumerate(self.expansions.items()):
            if not expansion.is_identity and expansion.copies != 1:
                uneven = expansion.copies is None
                found[group] = float(expansion.copies or 2 + place / 7), uneven
        return found

    def _brought(self, ratio: float, lists: Iterable[list[int]] = (), *, uneven: bool = False) -> int:
        term = self.values.scales.change(ratio, uneven=uneven)
        for terms in lists:
            terms.append(term)
        return term

    def _along(self, axis: Axis, times: Callable[[ChannelGroup], int]) -> Factors:
        """The factor at each position of an axis, from that of each set of channels on it."""
        parts = list[Tensor]()
        for segment in axis:
            part: Factors = 0
            size = 1
            for factor in segment:
                own = times(factor) if isinstance(factor, ChannelGroup) else self._along(factor, times)
                length = factor.size if isinstance(factor, ChannelGroup) else axis_size(factor)
                outer = part if isinstance(part, int) else part[:, None]
                part = self.values.times(outer, own)
                size *= length
                part = part if isinstance(part, int) else part.expand(size // length, length).reshape(-1)
            parts.append(torch.as_tensor(part).expand(size))
        return simple(torch.cat(parts))

    def _parameter(self, names: tuple[str, ...]) -> Factors:
        """Unknown factors along the rows, and what a split divides by along what is summed over."""
        name = next((name for name in names if name in self.rows), names[0])
        if name not in self._stored:
            axes = self.trace.tensors[name]
            found = self._unknown(name, len(axes)) if name in self.rows else self._constant(name)
            for dim, axis in enumerate(axes):
                own = 0 if name in self.unsplit else self._split(name, dim, axis)
                after = len(axes) - dim - 1
                own = own if isinstance(own, int) else own.reshape(-1, *[1] * after)
                found = self.values.times(found, own)
            self._stored[name] = found
        return self._stored[name]

    def _unknown(self, name: str, dims: int) -> Factors:
        parts, count = parts_of(self.rows[name], 1)
        self.unknown[name] = [self.values.scales.unknown() for _ in range(count)]
        numbers = [self.values.number_of(term) for term in self.unknown[name]]
        return numbers[0] if count == 1 else torch.tensor(numbers)[parts].reshape(-1, *[1] * (dims - 1))

    def _constant(self, name: str) -> int:
        if name not in self.ratios:
            return 0
        self.constants[name] = self._brought(self.ratios[name])
        return self.values.number_of(self.constants[name])

    def _split(self, name: str, dim: int, axis: Axis) -> Factors:
        terms = list[int]()
        consumed = self.trace.consumers
        found = self.over(axis, [terms], -1, split=True, among=lambda group: (group, name, dim) in consumed)
        self.sums |= dict.fromkeys(terms, name)
        return found


def parts_of(axis: PairedAxis, side: int) -> tuple[Tensor, int]:
    """Which part of an axis each position lies in (int64), and how many parts there are.

    Parts are what lies side by side: queries, keys and values of a packed matrix, within each head perhaps.

    Args:
        axis: the layout in both models.
        side: 0 for the source's positions, 1 for the target's.
    """
    found, count = list[Tensor](), 0
    for segment in axis.segments:
        part, own = torch.zeros(1, dtype=torch.int64), 1
        for factor in segment:
            if isinstance(factor, PairedAxis):
                inner, times = parts_of(factor, side)
            else:
                size = factor.size if isinstance(factor, Unchanged) else factor.sizes[side]
                inner, times = torch.zeros(size, dtype=torch.int64), 1
            part, own = (part[:, None] * times + inner).reshape(-1), own * times
        found.append(part + count)
        count += own
    return torch.cat(found), count
