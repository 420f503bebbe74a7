"""The progress of a run, as it is saved with each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import NonNegativeFloat, NonNegativeInt

from growtool.finetune.state.records import EpochRecord


@dataclass(slots=True)
class RunProgress:
    """The progress of a run: what its loop needs to continue, besides the state of the trainer.

    Attributes:
        epoch: epochs that are complete and evaluated.
        batch: updates done in the current epoch.
        step: updates done in all.
        skipped: updates skipped in all, because they were not finite.
        pending: training losses of the updates since the last `StepRecord`.
        epoch_sum, epoch_count: sum and number of the losses of the current epoch that are in a `StepRecord`.
        seconds: time spent on training and evaluation.
        initial: evaluation before the first update.
        best: evaluation of the best epoch so far.
        last: evaluation of the latest complete epoch.
        unreadable: images that could not be read so far, each with its reason.
    """

    epoch: NonNegativeInt = 0
    batch: NonNegativeInt = 0
    step: NonNegativeInt = 0
    skipped: NonNegativeInt = 0
    pending: list[float] = field(default_factory=list)
    epoch_sum: float = 0.0
    epoch_count: NonNegativeInt = 0
    seconds: NonNegativeFloat = 0.0
    initial: EpochRecord | None = None
    best: EpochRecord | None = None
    last: EpochRecord | None = None
    unreadable: tuple[str, ...] = ()
