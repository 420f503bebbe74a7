"""What the runs of a comparison came to: read from their folders, brought together per arm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from growtool.finetune.state.points import Point

FRACTIONS = (0.25, 0.5, 0.75)
"""Parts of its budget after which an arm is looked at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        seed: of the run.
        lr: its learning rate; None where the recipe decided.
        points: its evaluations, the first before any update.
    """

    seed: int
    lr: float | None
    points: tuple[Point, ...]

    @property
    def seconds(self) -> float:
        """Of training and evaluation."""
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
        """Top-1 of the last evaluation no later than `step`."""
        return max((point for point in self.points if point.step <= step), key=lambda point: point.step).top1


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean over seeds, and the sample standard deviation where there are several."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


def best_rate(outcomes: Sequence[Outcome]) -> float | None:
    """The learning rate with the best final accuracy, averaged over the seeds it ran with; the first of equals.

    None where no trial came to an end, or none was given a rate.
    """
    finals: dict[float | None, list[float]] = {}
    for outcome in outcomes:
        finals.setdefault(outcome.lr, []).append(outcome.final)
    return max(finals, key=lambda lr: statistics.fmean(finals[lr]), default=None)
