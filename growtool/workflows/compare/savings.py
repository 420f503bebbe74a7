"""Accuracy against the cost of all training, and the saving at equal accuracy: interpolated, never extrapolated."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from growtool.report import units
from growtool.report.ticks import ticks
from growtool.workflows.compare.results import Spread

Points = Sequence[tuple[float, float]]
"""Pairs of the MACs of all training and the accuracy in percent at its end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The accuracy of a way of training at one length.

    Attributes:
        macs: of all training, including that of the checkpoint it starts from.
        steps: updates; 0 for the checkpoint itself, right after growth.
        top1: seed -> percent of the evaluation images; at least one seed.
    """

    macs: int
    steps: int
    top1: Mapping[int, float]

    @property
    def spread(self) -> Spread:
        """Mean and deviation of the accuracy over seeds."""
        return Spread.of(list(self.top1.values()))


@dataclass(frozen=True, slots=True)
class Curve:
    """The accuracies of a way of training at all its lengths; each length is a run with its own schedule.

    Attributes:
        name: of the way.
        target: a text that is equal for equal models.
        from_scratch: whether the curve is a reference for others.
        points: at least one.
    """

    name: str
    target: str
    from_scratch: bool
    points: tuple[Measured, ...]

    @property
    def means(self) -> Points:
        """The points, as means over seeds."""
        return [(point.macs, point.spread.mean) for point in self.points]

    @property
    def seeds(self) -> frozenset[int]:
        """The seeds of all lengths."""
        return frozenset().union(*(point.top1 for point in self.points))

    def of_seed(self, seed: int) -> Points:
        """Return the points of one seed, at the lengths that have it."""
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
        by_seed: if the level is the mean accuracy of a length, the accuracy of each seed there; else empty.
    """

    top1: float
    by_seed: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """MACs of training to an accuracy.

    Attributes:
        macs: interpolated between measured points, or the lowest measured cost.
        at_most: whether the lowest measured cost has a higher accuracy already, so that the true cost may be lower.
    """

    macs: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤ ' if self.at_most else ''}{units.count(self.macs)}"


@dataclass(frozen=True, slots=True)
class Saving:
    """The cost of one accuracy for a way and for its reference.

    Attributes:
        top1: the accuracy in percent.
        cost: of the way; None if it was not trained that far.
        reference: of training from scratch; None if that was not trained that far.
        deviation: of the saving over the seeds that both were trained with around this cost; None for one seed, or if
            one of them does not reach the accuracy.
    """

    top1: float
    cost: Cost | None
    reference: Cost | None
    deviation: float | None = None

    @property
    def saved(self) -> float | None:
        """The saved fraction of the cost from scratch, negative if the way costs more; None if it is not known."""
        return _saved(self.cost, self.reference)

    @property
    def bound(self) -> str:
        """`at least` or `at most` if the saving is only a bound; empty otherwise."""
        if self.saved is None or self.cost is None or self.reference is None:
            return ""
        return "at least" if self.cost.at_most else "at most" if self.reference.at_most else ""

    def reason(self, name: str, reference: str) -> str:
        """Return why the saving is not known, given the names of way and reference; empty if it is known."""
        if self.saved is not None:
            return ""
        ways = ((name, self.cost), (reference, self.reference))
        short = [way for way, cost in ways if cost is None]
        above = [way for way, cost in ways if cost and cost.at_most]
        return (
            f"{' and '.join(short)} did not reach that accuracy"
            if short
            else f"the cheapest run of {' and of '.join(above)} has more than that"
        )


def envelope(points: Points) -> list[tuple[float, float]]:
    """Return the points that are more accurate than all that cost as much or less: nobody pays more for less."""
    best: list[tuple[float, float]] = []
    for macs, top1 in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or top1 > best[-1][1]:
            best.append((macs, top1))
    return best


def cost_at(points: Points, top1: float) -> Cost | None:
    """Return the cost of training to an accuracy; None if no point is that accurate.

    Between two neighbours of the envelope, accuracy is taken as linear in the logarithm of MACs, and after a point
    without cost as linear in MACs. Real curves bend downwards, so the result is too high rather than too low.
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
    """Return what a way saves over its reference at one accuracy.

    The saving is that of the means over seeds; the deviation is over the savings of single seeds, those with which both
    ways were trained for less and for more than the mean cost.
    """
    means = Saving(level.top1, cost_at(curve.means, level.top1), cost_at(reference.means, level.top1))
    if means.saved is None or means.bound:
        return means
    pairs = [(way, cost.macs) for way, cost in ((curve, means.cost), (reference, means.reference)) if cost]
    each = []
    for seed in sorted(curve.seeds & reference.seeds):
        if all(_trained_around(way, seed, macs) for way, macs in pairs):
            top1 = level.by_seed.get(seed, level.top1)
            costs = [cost_at(way.of_seed(seed), top1) for way in (curve, reference)]
            each.append(None if any(cost and cost.at_most for cost in costs) else _saved(*costs))
    found = [value for value in each if value is not None]
    return replace(means, deviation=statistics.stdev(found)) if len(found) == len(each) > 1 else means


def _trained_around(way: Curve, seed: int, macs: float) -> bool:
    """Return whether a seed has lengths that cost at most and at least so much."""
    lengths = [cost for cost, _ in way.of_seed(seed)]
    return min(lengths) <= macs <= max(lengths)


def levels(curve: Curve, reference: Curve, others: Iterable[Curve]) -> list[Level]:
    """Return the accuracies to compare costs at: those of both curves at their lengths, and round numbers between.

    The round numbers are the same for all `others`, so that the rows of a table can be compared.
    """
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
    """Return the saved fraction; None if a cost is unknown, or if a bound leaves open which of the two is cheaper."""
    if cost is None or reference is None or not reference.macs or (cost.at_most and reference.at_most):
        return None
    saved = 1 - cost.macs / reference.macs
    open_ended = (cost.at_most and saved < 0) or (reference.at_most and saved > 0)
    return None if open_ended else saved
