"""The evaluations of a run, read from its metrics, and the labels of charts that show them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from growtool.finetune.state.journal import METRICS, read_events

UPDATES, MACS = ("step", "updates"), ("macs", "multiply-accumulates (MACs) of training")
"""Horizontal axes of charts: the attribute of `Point`, and the label."""
TOP1 = ("top1", "accuracy", "top-1, %")
EVAL_LOSS = ("eval_loss", "loss on the evaluation images", "cross-entropy")
TRAIN_LOSS = ("train_loss", "loss in training", "loss, smoothing and mixup included")
"""Vertical axes of charts: the attribute of `Point`, the title, and the label."""


@dataclass(frozen=True, slots=True)
class Point:
    """An evaluation: before the first update, within an epoch, or at the end of one.

    Attributes:
        step: updates done.
        macs: multiply-accumulates of training so far.
        seconds: time of training and evaluation so far.
        top1: accuracy in percent of the evaluation images.
        eval_loss: mean cross-entropy over the evaluation images.
        train_loss: mean training loss of the epoch that ends here; None within an epoch and before the first.
    """

    step: int
    macs: int
    seconds: float
    top1: float
    eval_loss: float
    train_loss: float | None = None

    @property
    def minutes(self) -> float:
        """Minutes of training and evaluation so far."""
        return self.seconds / 60

    def after(self, earlier: Point | None) -> Point:
        """Return this evaluation with steps, MACs and seconds counted on from `earlier`, the end of a run before."""
        if earlier is None:
            return self
        return replace(
            self, step=self.step + earlier.step, macs=self.macs + earlier.macs, seconds=self.seconds + earlier.seconds
        )


def read_points(folder: Path) -> tuple[Point, ...]:
    """Return the evaluations of the run in `folder`, in the order of their records.

    Raises:
        CheckpointError: the run's metrics are missing or damaged.
    """
    return tuple(
        Point(
            event["step"], event["macs"], event["seconds"], event["top1"], event["eval_loss"], event.get("train_loss")
        )
        for event in read_events(folder / METRICS)
        if event["event"] in ("epoch", "evaluation")
    )
