"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import NonNegativeFloat, NonNegativeInt

from growtool.finetune.state.records import EpochRecord


@dataclass(slots=True)
class RunProgress:
    """How far a run has come.

    Attributes:
        epoch: epochs that are complete, their evaluation included.
        batch: updates of the epoch under way.
        step: updates in all.
        skipped: updates left out.
        pending: losses since the last record.
        epoch_sum, epoch_count: sum and number of the losses of the epoch under way that are in records.
        seconds: of training and evaluation.
        initial, best, last: the checkpoint before training, the best epoch, the latest.
        unreadable: names of the images that could not be read.
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
