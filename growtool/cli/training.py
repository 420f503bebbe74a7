"""How training looks on a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from growtool.cli.console import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from growtool.finetune.records import EpochRecord, EvaluationRecord, Progress, StepRecord


@contextmanager
def shown_progress() -> Iterator[Progress | None]:
    """A bar with loss, rate, speed, memory and time left on a terminal; in a pipe only what one should know."""
    if os.environ.get("RANK", "0") != "0":
        yield None
        return
    if not console().is_terminal:
        yield _Notices()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        yield _BarProgress(bar)


class _Notices:
    """Nothing but notices."""

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        if step:
            console().print(f"resumed after update {step:,} of {steps:,}")

    def advanced(self, step: int) -> None: ...

    def logged(self, record: StepRecord) -> None: ...

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None: ...

    def noticed(self, text: str) -> None:
        from rich.text import Text

        console().print(Text.assemble(("note: ", "yellow"), text), soft_wrap=True)


class _BarProgress(_Notices):
    """Draws a run as it goes on; see `growtool.finetune.records.Progress`."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._epochs = 0
        self._task: TaskID = bar.add_task("reading", total=None, figures="")

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        super().started(steps=steps, epochs=epochs, images=images, step=step)
        self._epochs = epochs
        self._bar.update(self._task, total=steps, completed=step, description="training", figures=f"{images:,} images")

    def advanced(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def logged(self, record: StepRecord) -> None:
        from growtool.report import units

        loss = f"loss {record.loss:.3f}  " if record.loss is not None else ""
        speed = f"{record.images_per_second:,.0f} images/s  {units.size(record.memory)}"
        self._bar.update(
            self._task,
            description=f"epoch {record.epoch}/{self._epochs}",
            figures=f"{loss}lr {record.lr:.2g}  {speed}",
        )

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None:
        name, loss, best = f"step {record.step:,}", "", ""
        if isinstance(record, EpochRecord):
            name = f"epoch {record.epoch}" if record.epoch else "before"
            loss = f"loss {record.train_loss:.3f}  " if record.train_loss is not None else ""
            best = "  [green]best[/]" if record.best else ""
        self._bar.console.print(f"{name:>9}  {loss}top-1 {record.top1:.2f} %  top-5 {record.top5:.2f} %{best}")
