"""Which numbers of a constructor may be doubled together: as many as agree on every set of channels.

A configuration that says channels layer by layer holds many numbers that belong together: what one layer writes, the
next reads. Doubling one number alone tells which dimensions it decides. A set of channels may be doubled only if every
dimension that carries it is. Numbers that decide only some of these dimensions (the input of a layer after a stem of
fixed width) are left out, then the numbers that disagree without those, and so on until the rest agrees.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from fractions import Fraction
from typing import TypeVar

from growtool.library.building import Shapes
from growtool.trace import Axis, ChannelGroup, groups_on
from growtool.trace.axes import axis_size, may_grow

K = TypeVar("K", bound=Hashable)
_Dimension = tuple[str, int]
_Sizes = Mapping[_Dimension, int]


class Closure:
    """What each number of a constructor changes when it alone is doubled.

    Args:
        shapes: of the model's tensors.
        tensors: their layouts.
        alone: number -> the shapes of the model with this one doubled; has to hold every tensor of the model.
    """

    def __init__(self, shapes: Shapes, tensors: Mapping[str, tuple[Axis, ...]], alone: Mapping[K, Shapes]) -> None:
        self._axes = {(name, dim): axis for name in shapes for dim, axis in enumerate(tensors[name])}
        self._effects: dict[Hashable, _Sizes] = {key: _effect(shapes, changed) for key, changed in alone.items()}

    def agreeing(self, keys: Iterable[K]) -> list[K]:
        """Return the numbers that may be doubled together as far as sizes tell; a trace has to confirm it."""
        chosen = list(keys)
        while chosen:
            torn = set(_torn(self._axes, self._factors(chosen)))
            untorn = [key for key in chosen if not torn & self._effects[key].keys()]
            if len(untorn) == len(chosen):
                break
            chosen = untorn
        return chosen

    def nearest(self, keys: Iterable[K], kind: Callable[[K], Hashable]) -> list[K]:
        """Return those of the numbers that together come nearest to doubling what may grow.

        Greedy: as long as that comes nearer, the numbers of one kind are dropped, and those that then disagree.

        Args:
            keys: numbers that agree.
            kind: gives the kind of a number.
        """
        chosen = list(keys)
        while True:
            kinds = dict.fromkeys(map(kind, chosen))
            fewer = [self.agreeing([k for k in chosen if kind(k) != dropped]) for dropped in kinds]
            best = min(fewer, key=self._cost, default=chosen)
            if self._cost(best) >= self._cost(chosen):
                return chosen
            chosen = best

    def _factors(self, keys: Iterable[K]) -> dict[_Dimension, Fraction]:
        """Return by what factor numbers that are doubled together multiply each dimension that they change.

        On an axis of one segment (heads times head size) the factors multiply. On an axis of several, laid side by side
        (queries, keys and values), each number lengthens its own segments, so that the increases add up.
        """
        factors: dict[_Dimension, Fraction] = {}
        for key in keys:
            for dimension, size in self._effects[key].items():
                axis = self._axes[dimension]
                before, alone = factors.get(dimension, Fraction(1)), Fraction(size, axis_size(axis))
                factors[dimension] = before * alone if len(axis) == 1 else before + alone - 1
        return factors

    def _cost(self, keys: Iterable[K]) -> float:
        """Return how far the dimensions that may grow are from double."""
        factors = self._factors(keys)
        growable = [dimension for dimension, axis in self._axes.items() if may_grow(axis)]
        return float(sum(abs(factors.get(dimension, Fraction(1)) - 2) for dimension in growable))


def _effect(shapes: Shapes, changed: Shapes) -> dict[_Dimension, int]:
    """Return the dimensions that a number changes when it is doubled, with their new sizes."""
    return {
        (name, dim): new
        for name, shape in shapes.items()
        for dim, (old, new) in enumerate(zip(shape, changed[name], strict=True))
        if old != new
    }


def _torn(axes: Mapping[_Dimension, Axis], factors: Mapping[_Dimension, Fraction]) -> Iterator[_Dimension]:
    """Yield the dimensions of channels that are multiplied by different factors, or that cannot grow and would.

    Args:
        axes: the layout of every dimension.
        factors: by which dimensions are multiplied; others stay.
    """
    # an axis of a single group tells the factor of this group; other axes are then checked against these
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
    """Return the length of an axis whose channels are multiplied by these factors, or None if one is not known."""
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
