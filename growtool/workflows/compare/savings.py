"""Accuracy against the cost of all training, and what is saved at equal accuracy: interpolated, never extrapolated."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from growtool.report import units
from growtool.report.chart import ticks
from growtool.workflows.compare.results import Spread

Points = Sequence[tuple[float, float]]
"""MACs of all training, and the accuracy that it came to."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a way of training came to at one length.

    Attributes:
        macs: of all training, that of what it started from included.
        steps: updates; 0 for what it started from, right after growth.
        top1: in percent of the evaluation images, by seed; at least one.
    """

    macs: int
    steps: int
    top1: Mapping[int, float]

    @property
    def spread(self) -> Spread:
        """Over seeds."""
        return Spread.of(list(self.top1.values()))


@dataclass(frozen=True, slots=True)
class Curve:
    """What a way of training came to at its lengths, each a run with a schedule of its own.

    Attributes:
        name: of the way.
        target: equal for equal models.
        from_scratch: whether others are measured by it.
        points: at least one.
    """

    name: str
    target: str
    from_scratch: bool
    points: tuple[Measured, ...]

    @property
    def means(self) -> Points:
        """Over seeds."""
        return [(point.macs, point.spread.mean) for point in self.points]

    @property
    def seeds(self) -> frozenset[int]:
        """Those that any length has."""
        return frozenset().union(*(point.top1 for point in self.points))

    def of_seed(self, seed: int) -> Points:
        """The points of one seed, at the lengths that have it."""
        return [(point.macs, point.top1[seed]) for point in self.points if seed in point.top1]

    @property
    def every(self) -> Points:
        """The points of all seeds."""
        return [(point.macs, top1) for point in self.points for top1 in point.top1.values()]


@dataclass(frozen=True, slots=True)
class Level:
    """An accuracy at which costs are compared.

    Attributes:
        top1: in percent.
        by_seed: where it is what training came to, what each seed came to; for others `top1`.
    """

    top1: float
    by_seed: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """MACs of training to an accuracy.

    Attributes:
        macs: interpolated between what was measured, or the least that was.
        at_most: whether that least came to a higher accuracy, so that this one may be had for less.
    """

    macs: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤ ' if self.at_most else ''}{units.count(self.macs)}"


@dataclass(frozen=True, slots=True)
class Saving:
    """Two costs of one accuracy.

    Attributes:
        top1: the accuracy in percent.
        cost: None where the way was not trained that far.
        reference: what it costs from scratch; None where scratch was not trained that far.
        deviation: of the saving over the seeds of both; None for one, or where a seed's curves do not both reach the
            accuracy.
    """

    top1: float
    cost: Cost | None
    reference: Cost | None
    deviation: float | None = None

    @property
    def saved(self) -> float | None:
        """The part of the cost from scratch that is saved, negative where more is paid; None where that is not told."""
        return _saved(self.cost, self.reference)

    @property
    def bound(self) -> str:
        """Whether it is `at least` or `at most` that; empty where it is just that."""
        if self.saved is None or self.cost is None or self.reference is None:
            return ""
        return "at least" if self.cost.at_most else "at most" if self.reference.at_most else ""

    def reason(self, name: str, reference: str) -> str:
        """Why nothing is told, of ways with these names; empty where something is."""
        if self.saved is not None:
            return ""
        ways = ((name, self.cost), (reference, self.reference))
        short = [way for way, cost in ways if cost is None]
        above = [way for way, cost in ways if cost and cost.at_most]
        return (
            f"{' and '.join(short)} did not get that far"
            if short
            else f"{' and '.join(above)} lay above that at the cheapest"
        )


def envelope(points: Points) -> list[tuple[float, float]]:
    """The points that are more accurate than all that cost as much or less: nobody pays more for less."""
    best: list[tuple[float, float]] = []
    for macs, top1 in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or top1 > best[-1][1]:
            best.append((macs, top1))
    return best


def cost_at(points: Points, top1: float) -> Cost | None:
    """What it costs to train to an accuracy; None where no training came that far.

    Between two neighbours of the envelope accuracy is taken as linear in the logarithm of MACs; after a point that cost
    nothing, in MACs. As curves bend downwards, that is rather too much than too little.
    """
    kept = envelope(points)
    if top1 <= kept[0][1]:
        return Cost(kept[0][0], at_most=kept[0][0] > 0 and top1 < kept[0][1])  # nothing costs less than nothing
    for (cheap, low), (dear, high) in pairwise(kept):
        if top1 <= high:
            part = (top1 - low) / (high - low)
            return Cost(cheap ** (1 - part) * dear**part if cheap else part * dear)
    return None


def saving_at(curve: Curve, reference: Curve, level: Level) -> Saving:
    """What a way saves against another at one accuracy: by the means over seeds, and its deviation seed by seed."""
    each = []
    for seed in sorted(curve.seeds & reference.seeds):
        top1 = level.by_seed.get(seed, level.top1)
        costs = [cost_at(way.of_seed(seed), top1) for way in (curve, reference)]
        each.append(None if any(cost and cost.at_most for cost in costs) else _saved(*costs))
    found = [value for value in each if value is not None]
    means = Saving(level.top1, cost_at(curve.means, level.top1), cost_at(reference.means, level.top1))
    told = means.saved is not None and not means.bound and len(found) == len(each) > 1
    return replace(means, deviation=statistics.stdev(found)) if told else means


def levels(curve: Curve, reference: Curve, others: Iterable[Curve]) -> list[Level]:
    """What either came to at each of its lengths, and round numbers between, which are the same for all `others`."""
    ends = [Level(point.spread.mean, point.top1) for way in (reference, curve) for point in way.points]
    lowest = max(_range(reference)[0], min(_range(other)[0] for other in others))
    highest = min(_range(reference)[1], max(_range(other)[1] for other in others))
    between = ticks(lowest, highest) if lowest < highest else ()
    every = ends + [Level(top1) for top1 in between if lowest < top1 < highest]
    distinct: dict[str, Level] = {}
    for level in every:
        distinct.setdefault(f"{level.top1:.2f}", level)
    return sorted(distinct.values(), key=lambda level: level.top1)


def _range(curve: Curve) -> tuple[float, float]:
    tops = [top1 for _, top1 in curve.means]
    return min(tops), max(tops)


def _saved(cost: Cost | None, reference: Cost | None) -> float | None:
    """The part of the cost that is saved; None where one is unknown, or a bound does not tell which is the cheaper."""
    if cost is None or reference is None or not reference.macs or (cost.at_most and reference.at_most):
        return None
    saved = 1 - cost.macs / reference.macs
    open_ended = (cost.at_most and saved < 0) or (reference.at_most and saved > 0)
    return None if open_ended else saved
