"""The loop of a run over its epochs, with its evaluations, records and checkpoints, from its progress to its end."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from growtool.checkpoint.folder import loading_line
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.advice import after_divergence
from growtool.finetune.commands import resuming
from growtool.finetune.evaluate import evaluate_source
from growtool.finetune.job import Job
from growtool.finetune.parallel.device import is_out_of_memory, peak_memory
from growtool.finetune.shortfall import Shortfall, shortfall_of
from growtool.finetune.state.copies import Copies
from growtool.finetune.state.folder import RunFolder, Saver
from growtool.finetune.state.journal import Journal
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import (
    EpochRecord,
    Evaluation,
    EvaluationRecord,
    Progress,
    Record,
    StepRecord,
    UnreadableRecord,
)
from growtool.finetune.state.snapshot import take
from growtool.finetune.stopping import Stopped, StopRequest
from growtool.finetune.update.loop import Diverged, Meter


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run.

    Attributes:
        output: the run's folder.
        initial: evaluation before the first update.
        best: evaluation of the best epoch, whose weights are in `best/`.
        last: evaluation of the final epoch, whose weights are in `last/`.
        final: evaluation of `best/` as read from disk at the end.
        steps: updates done.
        skipped: updates skipped because they were not finite.
        unreadable: images that could not be read, each with its reason.
        seconds: time spent on training and evaluation, without interruptions.
        macs: multiply-accumulates spent on training.
        trained_parameters: number of elements of the parameters that trained.
        parameters: number of elements of all parameters.
        shortfall: if the best epoch is below the start: by how much, and what to change; else None.
    """

    output: Path
    initial: EpochRecord
    best: EpochRecord
    last: EpochRecord
    final: Evaluation
    steps: int
    skipped: int
    unreadable: tuple[str, ...]
    seconds: float
    macs: int
    trained_parameters: int
    parameters: int
    shortfall: Shortfall | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the line of Python that loads `best/` under `load`."""
        return asdict(self) | {"output": str(self.output), "load": loading_line(self.output / "best")}


class EpochLoop:
    """The loop of a run.

    Args:
        course: progress of the run so far; the loop keeps it up to date.
        journal: receives the records; None in all processes but the first.
        saver: writes the checkpoints; None in all processes but the first.
        request: tells whether a signal asked the run to stop.
    """

    def __init__(
        self,
        job: Job,
        course: RunProgress,
        folder: RunFolder,
        journal: Journal | None,
        saver: Saver | None,
        progress: Progress,
        request: StopRequest,
    ) -> None:
        self.job, self.course, self.folder = job, course, folder
        self.journal, self.saver, self.progress, self.request = journal, saver, progress, request
        self.world = job.trainer.world
        self.copies = Copies() if saver is not None else None
        self.meter = Meter(job.trainer, course)
        self.begun = time.perf_counter() - course.seconds
        self.told_unreadable = len(course.unreadable)

    def result(self) -> RunResult:
        """Train to the end of the run, or what is left of it; evaluate `best/`.

        Raises:
            PlanError: training diverged.
            CheckpointError: the checkpoint has a loss that is not finite before the first update.
            Stopped: a signal asked the run to stop; it is saved.
            OSError: a checkpoint could not be written.
        """
        job, course, trainer = self.job, self.course, self.job.trainer
        self.progress.started(steps=job.steps, epochs=job.epochs, images=job.train.count, step=course.step)
        try:
            if course.initial is None:
                self._before_training()
            for epoch in range(course.epoch + 1, job.epochs + 1):
                self._epoch(epoch)
            self._collect_checkpoint()
        except Diverged as error:
            self._collect_checkpoint()
            raise PlanError(after_divergence(error, job.config, self.folder)) from None
        except Exception as error:
            if is_out_of_memory(error):
                # The advice to follow names the latest checkpoint of the folder: wait for the one being written.
                self._collect_checkpoint()
            raise
        assert course.initial is not None and course.best is not None and course.last is not None
        self.world.wait()
        # From disk: every process loads `best/` and evaluates its part of the images.
        final = evaluate_source(self.folder.best, job.config, trainer.device, self.world)
        return RunResult(
            output=self.folder.root,
            initial=course.initial,
            best=course.best,
            last=course.last,
            final=final,
            steps=trainer.step,
            skipped=trainer.skipped,
            unreadable=course.unreadable,
            seconds=self._seconds(),
            macs=self._macs(),
            trained_parameters=trainer.selection.count(trainer.model),
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            shortfall=shortfall_of(job, self.folder, course.initial, course.best, final.count),
        )

    def _before_training(self) -> None:
        result = self.job.evaluate()
        if not math.isfinite(result.loss):
            raise CheckpointError(
                f"{self.job.source.name}: found an evaluation loss of {result.loss} before the first update, "
                "expected a finite number; the weights are damaged, or --amp-dtype float16 does not suffice for them"
            )
        self.course.initial = self._epoch_record(0, None, result)
        self._tell(self.course.initial)

    def _epoch(self, epoch: int) -> None:
        """Train an epoch, or the rest of it; evaluate and save, within it as often as the options say."""
        job, trainer, course, meter = self.job, self.job.trainer, self.course, self.meter
        job.begin_epoch(epoch)
        meter.restart()
        if course.batch and self._is_owed():
            self._evaluate_within(epoch)
        for images, targets in job.train.epoch(epoch, course.batch):
            loss = trainer.update(images, targets)
            course.batch += 1
            meter.add(loss, len(targets) * self.world.size)
            self.progress.advanced(trainer.step)
            finished = course.batch == len(job.train) or trainer.step == job.steps
            if trainer.step % job.config.log_interval == 0 or finished:
                self._tell_steps(epoch)
            if finished:
                break
            # Each process may get the signal at another update; they have to stop after the same one.
            if self.world.any(self.request.asked):
                self._stop()
            if self._is_due(job.config.eval_interval):
                self._evaluate_within(epoch)
            if self._is_due(job.config.recovery_interval):
                self._save(None)
        self._complete(epoch, self._evaluate())
        if epoch < job.epochs and self.world.any(self.request.asked):
            self._stop(saved=True)

    def _is_due(self, interval: int) -> bool:
        """Return whether the updates done are a multiple of an interval, which 0 turns off."""
        return interval > 0 and self.job.trainer.step % interval == 0

    def _is_owed(self) -> bool:
        """Return whether the evaluation after the latest update is still to be made.

        It is if a signal stopped the run there, which then saved without evaluating, so as to end soon.
        """
        lacking = self.journal is not None and self.job.trainer.step not in self.journal.evaluated
        return self._is_due(self.job.config.eval_interval) and self.world.any(lacking)

    def _evaluate(self) -> Evaluation:
        result = self.job.evaluate()
        if not math.isfinite(result.loss):
            step = self.job.trainer.step
            raise Diverged(f"step {step}: found an evaluation loss of {result.loss}, expected a finite number")
        return result

    def _evaluate_within(self, epoch: int) -> None:
        """Evaluate within an epoch; its time does not count for the speed of training."""
        begun = time.perf_counter()
        result, trainer = self._evaluate(), self.job.trainer
        trainer.selection.train_mode(trainer.model)
        self._tell(
            EvaluationRecord(trainer.step, epoch, result.top1, result.top5, result.loss, self._seconds(), self._macs())
        )
        self.meter.since += time.perf_counter() - begun

    def _epoch_record(self, epoch: int, train_loss: float | None, result: Evaluation) -> EpochRecord:
        return EpochRecord(
            epoch, self.job.trainer.step, train_loss, result.top1, result.top5, result.loss, best=False,
            seconds=self._seconds(), macs=self._macs(),
        )  # fmt: skip

    def _complete(self, epoch: int, result: Evaluation) -> None:
        """Update the progress at the end of an epoch, save it, and tell it."""
        course = self.course
        train_loss = course.epoch_sum / course.epoch_count if course.epoch_count else None
        record = self._epoch_record(epoch, train_loss, result)
        record = replace(record, best=course.best is None or record.rank > course.best.rank)
        course.best, course.last = (record if record.best else course.best), record
        course.epoch, course.batch = epoch, 0
        course.pending, course.epoch_sum, course.epoch_count = [], 0.0, 0
        self.meter.restart()
        self._save(result)
        self._tell(record)

    def _save(self, evaluation: Evaluation | None) -> None:
        """Copy the state and begin to write it; `evaluation` is that of an epoch that ends here, else None."""
        start = time.perf_counter()
        self._collect_checkpoint()
        self._note_course()
        snapshot = take(self.job.trainer, self.course, self.copies)
        if self.saver is not None and snapshot is not None:
            self.saver.submit(snapshot, stall=time.perf_counter() - start, evaluation=evaluation)

    def _note_course(self) -> None:
        """Bring the progress up to date before it is saved."""
        course, trainer = self.course, self.job.trainer
        course.step, course.skipped, course.seconds = trainer.step, trainer.skipped, self._seconds()
        course.pending = self.meter.pending()
        self._note_unreadable()

    def _note_unreadable(self) -> None:
        """Gather the images that no process could read, and tell those that are new."""
        own = (*self.job.train.unreadable, *self.job.eval.unreadable)
        everywhere = [name for names in self.world.gathered(own) for name in names]
        self.course.unreadable = tuple(dict.fromkeys((*self.course.unreadable, *everywhere)))
        fresh = self.course.unreadable[self.told_unreadable :]
        if fresh:
            self.told_unreadable = len(self.course.unreadable)
            self._write(UnreadableRecord(self.job.trainer.step, fresh))
            more = f" and {len(fresh) - 1} more, all in {self.folder.metrics}" if len(fresh) > 1 else ""
            self.progress.noticed(f"{fresh[0]}{more}; other images take their place in training")

    def _collect_checkpoint(self) -> None:
        """Wait until the last snapshot is written, and tell it."""
        if self.saver is not None and (record := self.saver.wait()) is not None:
            self._write(record)
            self.progress.saved(record)

    def _stop(self, *, saved: bool = False) -> None:
        """Save unless that was done, wait until it is written, and raise Stopped."""
        if not saved:
            self.job.trainer.settle()
            self._save(None)
        self._collect_checkpoint()
        self.world.wait()
        step = self.job.trainer.step
        saved_as = str(self.folder.of_step(step))
        raise Stopped(step, saved_as, self.request, line=resuming(self.folder.root))

    def _tell_steps(self, epoch: int) -> None:
        trainer = self.job.trainer
        loss, speed = self.meter.flush()
        record = StepRecord(
            trainer.step, epoch, loss, trainer.lr, speed, self._seconds(), self._macs(),
            peak_memory(trainer.device), trainer.skipped,
        )  # fmt: skip
        self._write(record)
        self.progress.logged(record)

    def _tell(self, record: EpochRecord | EvaluationRecord) -> None:
        self._write(record)
        self.progress.evaluated(record)

    def _write(self, record: Record) -> None:
        if self.journal is not None:
            self.journal.write(record)

    def _seconds(self) -> float:
        return time.perf_counter() - self.begun

    def _macs(self) -> int:
        return self.job.macs * self.job.config.batch_size * self.job.trainer.step
