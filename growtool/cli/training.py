"""The display of a training: a progress bar on a terminal, log lines everywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from growtool.cli.console import console, is_quiet, note, remark
from growtool.finetune.state.records import CheckpointRecord, EpochRecord, EvaluationRecord, Progress, StepRecord
from growtool.report import units

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


def is_main() -> bool:
    """Return whether this process prints: in a distributed run the first alone does."""
    return os.environ.get("RANK", "0") == "0"  # torchrun sets it


def note_once(text: str) -> None:
    """Print a note, in a distributed run once."""
    if is_main():
        note(text)


@contextmanager
def shown_progress() -> Iterator[Progress | None]:
    """Yield the display of a training, or None in all processes of a distributed run but the first.

    On a terminal it is a bar with loss, rate, speed, memory and time left; in a file, a pipe or a dumb terminal it is
    log lines, which `note` leaves out under --quiet.
    """
    if not is_main():
        yield None
        return
    if is_quiet() or not console().is_interactive:
        yield _LogLines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Bar(*columns, console=console(), transient=True, expand=True) as bar:
        yield _BarProgress(bar)


class _LogLines(Progress):
    """A plain line for each log interval, evaluation, epoch and checkpoint; see `Progress`.

    Every line is flushed, for `nohup`, batch systems and CI.
    """

    def __init__(self) -> None:
        self._steps = self._epochs = 0

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        self._steps, self._epochs = steps, epochs
        note(f"training: {_count(steps, 'update')}, {_count(epochs, 'epoch')}, {_count(images, 'image')}")
        if step:
            note(f"resumed after update {step:,} of {steps:,}")

    def chose(self, text: str) -> None:
        note(text)

    def logged(self, record: StepRecord) -> None:
        note(
            f"epoch {record.epoch}/{self._epochs}  update {record.step:,}/{self._steps:,} "
            f"({record.step / self._steps:.0%})  {_figures(record)}"
        )

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None:
        from rich.text import Text

        note(Text.from_markup(_evaluation(record)))

    def saved(self, record: CheckpointRecord) -> None:
        note(
            f"checkpoint of update {record.step:,}: {units.size(record.bytes)}, written in {record.write_seconds:.1f} s"
        )

    def noticed(self, text: str) -> None:
        remark(text)


class _BarProgress(_LogLines):
    """A bar that advances by updates, with a line above it for each evaluation and note."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar
        self._task: TaskID = bar.add_task("reading", total=None, figures="")

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        super().started(steps=steps, epochs=epochs, images=images, step=step)
        self._bar.update(self._task, total=steps, completed=step, description="training", figures="")

    def advanced(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def logged(self, record: StepRecord) -> None:
        description = f"epoch {record.epoch}/{self._epochs}"
        self._bar.update(self._task, description=description, figures=_figures(record))

    def saved(self, record: CheckpointRecord) -> None: ...


def _figures(record: StepRecord) -> str:
    """Return loss, learning rate, speed and memory of an update."""
    loss = f"loss {record.loss:.3f}  " if record.loss is not None else ""
    return f"{loss}lr {record.lr:.2g}  {record.images_per_second:,.0f} images/s  {units.size(record.memory)}"


def _evaluation(record: EpochRecord | EvaluationRecord) -> str:
    """Return a line in rich's markup with the accuracy before training, within an epoch, or at the end of one."""
    where, loss, best = f"update {record.step:,}", "", ""
    if isinstance(record, EpochRecord):
        where = f"epoch {record.epoch}" if record.epoch else "before"
        loss = f"loss {record.train_loss:.3f}  " if record.train_loss is not None else ""
        best = "  [green]best[/]" if record.best and record.epoch else ""
    return f"{where:>9}  {loss}top-1 {record.top1:.2f} %  top-5 {record.top5:.2f} %{best}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
