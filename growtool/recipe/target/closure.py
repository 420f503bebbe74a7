"""Which numbers of a constructor may be doubled together: the most that agree on every set of channels.

A configuration that says channels layer by layer holds many numbers that belong together: what one layer writes, the
next reads. Doubling one alone tells which dimensions it decides. Channels are doubled where every dimension that
carries them is; numbers that decide a part of them alone (the input of a layer after a stem of fixed width) are left
out, and so, one after the other, is what depends on these.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TypeVar

from growtool.library.building import Shapes
from growtool.trace import Axis, ChannelGroup, groups_on
from growtool.trace.axes import axis_size

K = TypeVar("K", bound=Hashable)
_Dimension = tuple[str, int]
_Sizes = Mapping[_Dimension, int]


class Closure:
    """What each number of a constructor changes when it alone is doubled, and which numbers may be doubled together.

    Args:
        shapes: of the model's tensors.
        tensors: their layouts.
        alone: number -> the shapes of the model with this one doubled, every tensor of the model among them.
    """

    def __init__(self, shapes: Shapes, tensors: Mapping[str, tuple[Axis, ...]], alone: Mapping[K, Shapes]) -> None:
        self._axes = {(name, dim): axis for name in shapes for dim, axis in enumerate(tensors[name])}
        self._effects: dict[Hashable, _Sizes] = {key: _effect(shapes, changed) for key, changed in alone.items()}

    def agreeing(self, keys: Iterable[K]) -> list[K]:
        """The most of these numbers that may be doubled together as far as sizes tell; a trace has to confirm it."""
        chosen = list(keys)
        while chosen:
            torn = set(_torn(self._axes, self._factors(chosen)))
            rest = [key for key in chosen if not torn & self._effects[key].keys()]
            if len(rest) == len(chosen):
                break
            chosen = rest
        return chosen

    def nearest(self, keys: Iterable[K], kind: Callable[[K], Hashable]) -> list[K]:
        """Of numbers that agree those that together come nearest to doubling what may grow; kinds go as a whole."""
        chosen, cost = list(keys), math.inf
        while True:
            kinds = dict.fromkeys(map(kind, chosen))
            fewer = [self.agreeing([k for k in chosen if kind(k) != dropped]) for dropped in kinds]
            now = self._cost(chosen) if cost == math.inf else cost
            best = min(fewer, key=self._cost, default=chosen)
            if self._cost(best) >= now:
                return chosen
            chosen, cost = best, self._cost(best)

    def _factors(self, keys: Iterable[K]) -> dict[_Dimension, Fraction]:
        """By what numbers multiply dimensions together: parts laid side by side add up, what else is one by another."""
        factors: dict[_Dimension, Fraction] = {}
        for key in keys:
            for dimension, size in self._effects[key].items():
                axis = self._axes[dimension]
                before, own = factors.get(dimension, Fraction(1)), Fraction(size, axis_size(axis))
                factors[dimension] = before * own if len(axis) == 1 else before + own - 1
        return factors

    def _cost(self, keys: Iterable[K]) -> float:
        factors = self._factors(keys)
        growable = [d for d, axis in self._axes.items() if any(group.fixed is None for group in groups_on(axis))]
        return float(sum(abs(factors.get(dimension, Fraction(1)) - 2) for dimension in growable))


def _effect(shapes: Shapes, changed: Shapes) -> dict[_Dimension, int]:
    """The dimensions that a number changes when it is doubled, with their new sizes."""
    return {
        (name, dim): new
        for name, shape in shapes.items()
        for dim, (old, new) in enumerate(zip(shape, changed[name], strict=True))
        if old != new
    }


def _torn(axes: Mapping[_Dimension, Axis], factors: Mapping[_Dimension, Fraction]) -> Iterator[_Dimension]:
    """Dimensions that carry channels which other dimensions have in another number, or which cannot grow."""
    alone: dict[ChannelGroup, set[Fraction]] = defaultdict(set)
    carriers: dict[ChannelGroup, list[_Dimension]] = defaultdict(list)
    for dimension, axis in axes.items():
        for group in groups_on(axis):
            carriers[group].append(dimension)
        if len(axis) == 1 and len(axis[0]) == 1 and isinstance(axis[0][0], ChannelGroup):
            alone[axis[0][0]].add(factors.get(dimension, Fraction(1)))
    for group, found in alone.items():
        if len(found) > 1 or (group.fixed is not None and found != {Fraction(1)}):
            yield from carriers[group]
    known = {group: min(found) for group, found in alone.items() if len(found) == 1}
    for dimension, axis in axes.items():
        size = _size(axis, known)
        if size is not None and size != axis_size(axis) * factors.get(dimension, Fraction(1)):
            yield from (carrier for group in groups_on(axis) for carrier in carriers[group])


def _size(axis: Axis, factors: Mapping[ChannelGroup, Fraction]) -> Fraction | None:
    """How long an axis is with its channels multiplied so, None where that is not known."""
    total = Fraction(0)
    for segment in axis:
        sizes = list[Fraction]()
        for factor in segment:
            if not isinstance(factor, ChannelGroup):
                inner = _size(factor, factors)
            elif factor.fixed is not None:
                inner = Fraction(factor.size)
            else:
                inner = factor.size * factors[factor] if factor in factors else None
            if inner is None:
                return None
            sizes.append(inner)
        total += math.prod(sizes, start=Fraction(1))
    return total
