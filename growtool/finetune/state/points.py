"""The evaluations of a run, read back from its metrics, and how charts name what they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from growtool.finetune.state.journal import METRICS, read_events

UPDATES, MACS = ("step", "updates"), ("macs", "multiply-accumulates (MACs) of training")
"""What an evaluation is drawn against: attribute of `Point`, and the axis' label."""
TOP1 = ("top1", "accuracy", "top-1, %")
EVAL_LOSS = ("eval_loss", "loss on the evaluation images", "cross-entropy")
TRAIN_LOSS = ("train_loss", "loss in training", "loss, smoothing and mixup included")
"""What is drawn: attribute of `Point`, title, and the axis' label."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation: before the first update, within an epoch or at its end.

    Attributes:
        step: updates done.
        macs: multiply-accumulates of training so far.
        seconds: of training and evaluation so far.
        top1: in percent of the evaluation images.
        eval_loss: mean cross-entropy over them.
        train_loss: mean over the epoch that ends here; None elsewhere.
    """

    step: int
    macs: int
    seconds: float
    top1: float
    eval_loss: float
    train_loss: float | None = None

    @property
    def minutes(self) -> float:
        """Of training and evaluation so far."""
        return self.seconds / 60

    def after(self, earlier: Point | None) -> Point:
        """The same evaluation, counted from where the run began that `earlier` was the last one of."""
        if earlier is None:
            return self
        return replace(
            self, step=self.step + earlier.step, macs=self.macs + earlier.macs, seconds=self.seconds + earlier.seconds
        )


def read_points(folder: Path) -> tuple[Point, ...]:
    """The evaluations of the run in `folder`, in their order.

    Raises:
        CheckpointError: its metrics are missing or damaged.
    """
    return tuple(
        Point(
            event["step"], event["macs"], event["seconds"], event["top1"], event["eval_loss"], event.get("train_loss")
        )
        for event in read_events(folder / METRICS)
        if event["event"] in ("epoch", "evaluation")
    )
