"""The records that a run writes and reports while it goes on, and the interface of those who watch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A summary of the updates since the previous step record.

    Attributes:
        step: updates done since the run began.
        epoch: epoch of these updates, from 1.
        loss: mean training loss of these updates without the skipped ones; None if all were skipped.
        lr: learning rate of the latest update.
        images_per_second: training speed of all processes together.
        seconds: time spent on training and evaluation since the run began, without interruptions.
        macs: multiply-accumulates spent on training since the run began.
        memory: peak memory in bytes: allocated on the CUDA device, or resident in the process if there is none.
        skipped: updates skipped since the run began, because a loss or gradient was not finite.
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
    """The result of an evaluation: accuracies in percent and mean cross-entropy over `count` images."""

    top1: float
    top5: float
    loss: float
    count: int


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """The evaluation at the end of an epoch. Epoch 0 is the checkpoint before the first update.

    Attributes:
        epoch: number of the epoch.
        step: updates done.
        train_loss: mean training loss of the epoch; None for epoch 0, and if all of its updates were skipped.
        top1, top5: accuracies in percent of the evaluation images.
        eval_loss: mean cross-entropy over the evaluation images.
        best: whether this is the best epoch so far.
        seconds, macs: as in `StepRecord`.
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
        """Sort key of epochs, the best one last: by top-1 accuracy, then by smaller loss."""
        return self.top1, -self.eval_loss


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """An evaluation within an epoch, see `RunConfig.eval_interval`; attributes as in `EpochRecord`."""

    step: int
    epoch: int
    top1: float
    top5: float
    eval_loss: float
    seconds: float
    macs: int


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A checkpoint that has been written.

    Attributes:
        step: updates done when the state was copied.
        stall_seconds: time for which training stood still, to wait for the checkpoint before and to copy the state.
        write_seconds: time that writing took, while training went on.
        bytes: size on disk.
    """

    step: int
    stall_seconds: float
    write_seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """Images that could not be read, each with its reason. In training, other images took their place."""

    step: int
    images: tuple[str, ...]


Record = StepRecord | EpochRecord | EvaluationRecord | CheckpointRecord | UnreadableRecord


class Progress:
    """An observer of a run. Its methods do nothing; subclasses override those they need.

    The training loop waits for every call, so overrides should be quick.
    """

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        """Take note that training begins.

        Args:
            steps: updates of the whole run.
            epochs: epochs of the whole run.
            images: training images.
            step: updates done before the run was interrupted; 0 for a new run.
        """

    def chose(self, text: str) -> None:
        """Take note of the values that a new run chose for unset options, in one line of text."""

    def advanced(self, step: int) -> None:
        """Take note that `step` updates are done."""

    def logged(self, record: StepRecord) -> None:
        """Take note of the record of a log interval."""

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None:
        """Take note of an evaluation: before training (epoch 0), within an epoch, or at its end."""

    def saved(self, record: CheckpointRecord) -> None:
        """Take note that a checkpoint has been written."""

    def noticed(self, text: str) -> None:
        """Take note of a sentence that the user should read."""
