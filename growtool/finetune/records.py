"""What a run tells while it goes on and when it is done."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The updates since the last record: mean loss, learning rate of the latest, images per second of training."""

    step: int
    epoch: int
    loss: float
    lr: float
    images_per_second: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracies in percent and mean cross-entropy over `count` images."""

    top1: float
    top5: float
    loss: float
    count: int


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The end of an epoch; epoch 0 is the checkpoint before the first update and has no training loss."""

    epoch: int
    step: int
    train_loss: float | None
    top1: float
    top5: float
    eval_loss: float
    best: bool

    @property
    def rank(self) -> tuple[float, float]:
        """Orders epochs: more images right, then less loss."""
        return self.top1, -self.eval_loss


class Progress(Protocol):
    """Who watches a run; called from the training loop, so it should be quick."""

    def started(self, *, steps: int, epochs: int, images: int) -> None:
        """Training begins: updates and epochs in all, and training images."""

    def advanced(self, step: int) -> None:
        """An update is done."""

    def logged(self, record: StepRecord) -> None:
        """A log interval is over."""

    def evaluated(self, record: EpochRecord) -> None:
        """An epoch is over, or the checkpoint was evaluated before the first."""


class Silent:
    """Watches without a word."""

    def started(self, *, steps: int, epochs: int, images: int) -> None: ...

    def advanced(self, step: int) -> None: ...

    def logged(self, record: StepRecord) -> None: ...

    def evaluated(self, record: EpochRecord) -> None: ...


class MetricsFile:
    """A JSON line per record, on disk as soon as it is known; `event` is `step` or `epoch`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, record: StepRecord | EpochRecord) -> None:
        """Append one line."""
        event: dict[str, Any] = {"event": "step" if isinstance(record, StepRecord) else "epoch"}
        self._file.write(json.dumps(event | asdict(record), allow_nan=False) + "\n")
        self._file.flush()
