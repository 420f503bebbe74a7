"""The outcomes of the runs of a comparison, and their spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from growtool.finetune.state.points import Point

FRACTIONS = (0.25, 0.5, 0.75)
"""Parts of the budget at which the accuracy of an arm is shown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        seed: of the run.
        lr: its learning rate; None if the recipe decided.
        points: its evaluations; the first is before any update.
    """

    seed: int
    lr: float | None
    points: tuple[Point, ...]

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluation."""
        return self.points[-1].seconds

    @property
    def start(self) -> float:
        """Top-1 in percent before the first update."""
        return self.points[0].top1

    @property
    def final(self) -> float:
        """Top-1 in percent at the end of the budget."""
        return self.points[-1].top1

    def at(self, step: float) -> float:
        """Return top-1 in percent of the last evaluation that is not after `step`."""
        return max((point for point in self.points if point.step <= step), key=lambda point: point.step).top1


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds; the deviation is None for a single seed."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


def best_rate(outcomes: Sequence[Outcome]) -> float | None:
    """Return the learning rate with the best mean final accuracy; of equal ones the first.

    None if no trial has ended, or if none was given a rate.
    """
    finals: dict[float | None, list[float]] = {}
    for outcome in outcomes:
        finals.setdefault(outcome.lr, []).append(outcome.final)
    return max(finals, key=lambda lr: statistics.fmean(finals[lr]), default=None)
