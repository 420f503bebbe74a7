"""What a run tells while it goes on and when it is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The updates since the last record.

    Attributes:
        step: updates done.
        epoch: the epoch they belong to, from 1.
        loss: mean over these updates; NaN-free, as skipped updates have none.
        lr: learning rate of the latest.
        images_per_second: of training, all processes together.
        seconds: of training and evaluation since the run began, interruptions left out.
        macs: multiply-accumulates spent on training since the run began, by `train_macs`.
        memory: bytes, the largest so far: allocated on the CUDA device, or resident without one.
        skipped: updates left out since the run began, because a loss or gradient was not finite.
    """

    step: int
    epoch: int
    loss: float | None
    lr: float
    images_per_second: float
    seconds: float
    macs: int
    memory: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracies in percent and mean cross-entropy over `count` images."""

    top1: float
    top5: float
    loss: float
    count: int


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The end of an epoch; epoch 0 is the checkpoint before the first update and has no training loss.

    `seconds` and `macs` are those of `StepRecord`.
    """

    epoch: int
    step: int
    train_loss: float | None
    top1: float
    top5: float
    eval_loss: float
    best: bool
    seconds: float = 0.0
    macs: int = 0

    @property
    def rank(self) -> tuple[float, float]:
        """Orders epochs: more images right, then less loss."""
        return self.top1, -self.eval_loss


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """An evaluation within an epoch, see `RunConfig.eval_interval`; `seconds` and `macs` are those of `StepRecord`."""

    step: int
    epoch: int
    top1: float
    top5: float
    eval_loss: float
    seconds: float
    macs: int


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that is on disk.

    Attributes:
        step: the update it was taken after.
        stall_seconds: for how long training stood still: copying the state, and waiting for an earlier one.
        write_seconds: for how long it was written while training went on.
        bytes: its size.
    """

    step: int
    stall_seconds: float
    write_seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """Images that could not be read, each with the reason; in training others took their place."""

    step: int
    images: tuple[str, ...]


Record = StepRecord | EpochRecord | EvaluationRecord | CheckpointRecord | UnreadableRecord


class Progress:
    """Who watches a run, by itself without a word; called from the training loop, so it should be quick."""

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        """Training begins: updates and epochs in all, training images, and updates done before an interruption."""

    def chose(self, text: str) -> None:
        """What a new run takes for the options that were left unset, in one line."""

    def advanced(self, step: int) -> None:
        """An update is done."""

    def logged(self, record: StepRecord) -> None:
        """A log interval is over."""

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None:
        """An epoch is over, or the checkpoint was evaluated before the first or within one."""

    def saved(self, record: CheckpointRecord) -> None:
        """A checkpoint is on disk."""

    def noticed(self, text: str) -> None:
        """Something the user should know, in one sentence."""
