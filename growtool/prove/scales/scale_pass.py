"""A pass of the target followed for the factors of its values: `y' = s E y` of a tensor y of the source.

A `ScalePass` holds the factor s of every tensor met so far. Its methods tell what factor an operation brings in, note
the joint operations, and require of factors what the rules in `prove.scales.rules` ask for.
"""

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
from growtool.prove.scales.copies import Copies
from growtool.prove.scales.values import Factors, ScaledValues, along
from growtool.trace import Axis, ChannelGroup, PairedAxis, Trace
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
        rows: tensor whose rows may be multiplied -> its first axis; one position for a tensor without dimensions.
        expansions: how each channel group grows; groups that stay may be absent.
        ratios: constant that is a multiple of the source's -> the multiple.
        unsplit: weights whose columns are copied and not split.
        values: the factors, and what is required of them.
        factors: number of a tensor -> the factors of its values.
        unknown: tensor whose rows may be multiplied -> the term of each of its parts.
        joint: joint operation -> the terms of what copies bring in there; none where no weight makes up for copies.
        norms: norm by a variance with N - 1 -> the term of what copies bring in there.
        copied: weight of `unsplit` -> the terms of what sums over its columns bring in.
        numbers: module and place of an entry whose number differs from the source's -> the term of the ratio, and the
            source's entry.
        constants: constant of `ratios` that the pass has met -> the term of its ratio.
        offsets: tensor that is used with a number added to it, as a gain `1 + w` -> the number.
        transformed: weight that goes through a function, which a split of its columns does not pass -> the module.
        sums: term of what a sum with a weight brings in -> the module; term of what a weight's split takes back -> the
            weight.
    """

    lockstep: Lockstep
    rows: Mapping[str, PairedAxis]
    expansions: Mapping[ChannelGroup, Expansion]
    ratios: Mapping[str, float]
    unsplit: frozenset[str]
    values: ScaledValues = field(default_factory=ScaledValues)
    factors: dict[int, Factors] = field(default_factory=dict)
    unknown: dict[str, list[int]] = field(default_factory=dict)
    joint: defaultdict[JointOp, list[int]] = field(default_factory=lambda: defaultdict(list))
    norms: dict[RescaledNorm, int] = field(default_factory=dict)
    copied: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[tuple[str, int], tuple[int, Entry]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    transformed: dict[str, str] = field(default_factory=dict)
    sums: dict[int, str] = field(default_factory=dict)
    _stored: dict[str, Factors] = field(default_factory=dict)

    @property
    def trace(self) -> Trace:
        """The target's trace."""
        return self.lockstep.target

    @cached_property
    def copies(self) -> Copies:
        """What copies bring in where a sum runs over them."""
        return Copies(self.expansions, self.values)

    def of(self, number: int) -> Factors:
        """Return the factors of a tensor's values; 1 for an input or a constant."""
        if number not in self.factors:
            names = self.trace.forward.stored.get(number, ())
            self.factors[number] = self._parameter(names) if names else 0
        return self.factors[number]

    def of_each_value(self, number: int) -> Tensor:
        """Return the factors of a tensor's values as int64 of its shape."""
        return torch.as_tensor(self.of(number)).expand(self.shape(number))

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the sizes of a tensor."""
        return tuple(map(axis_size, self.trace.forward.layouts[number]))

    def axis(self, number: int, dim: int) -> Axis:
        """Return one axis of a tensor."""
        return self.trace.forward.axes(number)[dim]

    def require_unscaled(self, step: Step, numbers: Iterable[int]) -> None:
        """Require factors of 1, as these operands go through a function that passes no factor on."""
        numbers = list(numbers)
        for number in numbers:
            self.values.require_one(self.of(number))
        self.note_transformed(step, numbers)

    def note_transformed(self, step: Step, numbers: Iterable[int]) -> None:
        """Note that weights among these operands go through a function, so that their columns may not be split.

        The shares of m copies add up to w, but f of each share need not add up to f(w): not for a standardised weight,
        where f(w / m) = f(w), and not for unequal shares even where f passes factors on.
        """
        for number in numbers:
            self.transformed |= dict.fromkeys(self.trace.forward.made_of.get(number, ()), step.module)

    def note_product_of_weights(self, step: Step, a: int, b: int) -> None:
        """Note two tensors that are multiplied, if both are weights: splits of both at once do not go together."""
        if all(self.trace.forward.made_of.get(number) for number in (a, b)):
            self.note_transformed(step, (a, b))

    def offset_parameter(self, step: Step) -> str | None:
        """Return the parameter that a number is added to, if it may be multiplied and nothing else reads it."""
        number, forward = step.args[0].number, self.trace.forward
        names = forward.stored.get(number, ())
        alone = len(names) == 1 and names[0] in self.rows and forward.touches[number] == 1
        return names[0] if alone else None

    def over_jointly(self, kind: str, step: Step, axis: Axis, power: float = 1) -> Factors:
        """Return what copies bring in at a joint operation where weights may make up for them, and note the operation.

        Args:
            kind: as in `JointOp`.
            step: the operation.
            axis: what is summed over.
            power: -1 for a mean, 1/2 for a Euclidean length.
        """
        factors, terms = self.copies.over(axis, power)
        self.joint[JointOp(kind, step.module, axis)] += terms
        return factors

    def over_weight(self, step: Step, weight: int, axis: Axis) -> Factors:
        """Return the same for a sum of products with a weight; a split of the weight takes it back."""
        copied = self.unsplit & self.trace.forward.made_of[weight]
        factors, terms = self.copies.over(axis, split=not copied)
        for name in copied:
            self.copied[name] += terms
        if not copied:
            self.sums |= dict.fromkeys(terms, step.module)
        return factors

    def note_joint(self, kind: str, step: Step, number: int, dims: Iterable[int]) -> None:
        """Note a joint operation over dimensions of a tensor where no weight makes up for copies."""
        for dim in dims:
            self.joint.setdefault(JointOp(kind, step.module, self.axis(number, dim)), [])

    def over_variance(self, step: Step, axis: Axis, eps: float) -> int:
        """Return what copies bring in at a norm by a variance with N - 1, and note the norm.

        Over m copies of each of N channels the variance is `r = m (N - 1) / (m N - 1)` of what it was, and so is the
        eps that the norm needs; its result is `r^-1/2` times as large.
        """
        terms = self.joint[JointOp(step.name, step.module, axis)]
        copies, size = copies_per_position(axis, self.expansions), axis_size(axis)
        if copies is None or not 1 < copies < size:
            return 0
        share = (size - copies) / (size - 1)
        term = self.values.scales.change(share**-0.5)
        terms.append(term)
        self.norms[RescaledNorm(step.module, (), 0.0, share, eps)] = term
        return self.values.number_of(term)

    def number(self, step: Step, number_in: Callable[[Step], Any]) -> Factors:
        """Return what a multiplication by a number brings in where the source multiplies by another.

        Args:
            step: the operation.
            number_in: gives the number in it, or in the source's operation.
        """
        found = self.lockstep.counterpart(step)
        if found is None or step.entry is None:
            return 0
        counterpart, entry = found
        target, source = number_in(step), number_in(counterpart)
        # nine digits: the two constructors may compute equal numbers in different ways
        if not isinstance(source, int | float) or target * source <= 0 or f"{target:.9g}" == f"{source:.9g}":
            return 0
        term = self.values.scales.change(source / target if step.name == "div" else target / source)
        self.numbers[step.module, step.entry] = term, entry
        return self.values.number_of(term)

    def _parameter(self, names: tuple[str, ...]) -> Factors:
        """Return the factors of a parameter or buffer: unknown along its rows, divided by the copies along its columns.

        The columns are the dimensions that sums run over: the equal split gives each of m copies 1/m. A noisy split
        adds up to the same, so the factor of the sum is as it would be for the equal one.
        """
        name = next((name for name in names if name in self.rows), names[0])
        if name not in self._stored:
            axes = self.trace.tensors[name]
            factors = self._unknown(name, len(axes)) if name in self.rows else self._constant(name)
            for dim, axis in enumerate(axes):
                split = 0 if name in self.unsplit else self._split(name, dim, axis)
                factors = self.values.product(factors, along(split, len(axes) - dim - 1))
            self._stored[name] = factors
        return self._stored[name]

    def _unknown(self, name: str, ndim: int) -> Factors:
        """Return an unknown factor for each part of a tensor's rows: [rows, 1, ...], or one number for one part."""
        part_of_row, count = self.rows[name].parts(1)
        self.unknown[name] = [self.values.scales.unknown() for _ in range(count)]
        numbers = [self.values.number_of(term) for term in self.unknown[name]]
        return numbers[0] if count == 1 else along(torch.tensor(numbers)[part_of_row], ndim - 1)

    def _constant(self, name: str) -> int:
        if name not in self.ratios:
            return 0
        self.constants[name] = self.values.scales.change(self.ratios[name])
        return self.values.number_of(self.constants[name])

    def _split(self, name: str, dim: int, axis: Axis) -> Factors:
        """Return what a split divides by along a dimension of a weight: the copies of the groups summed over there."""
        consumers = self.trace.consumers
        factors, terms = self.copies.over(axis, -1, split=True, among=lambda group: (group, name, dim) in consumers)
        self.sums |= dict.fromkeys(terms, name)
        return factors
