"""The progress of a training in a notebook: a bar over the updates, and a line for each evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from growtool.finetune.state.records import EpochRecord, EvaluationRecord, Progress, StepRecord
from growtool.notebook import in_session


@contextmanager
def shown_bar() -> Iterator[Progress]:
    """Provide the observer for a run whose caller gave none: a bar in an IPython session, else one without output."""
    if not in_session():
        yield Progress()
        return
    from tqdm.auto import tqdm

    with tqdm(desc="reading", leave=False) as bar:
        yield _Bar(bar)


class _Bar(Progress):
    """A tqdm bar with loss, learning rate and speed."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def started(self, *, steps: int, epochs: int, images: int, step: int) -> None:
        self._bar.reset(total=steps)
        self._bar.set_description("training")
        self._bar.update(step)

    def chose(self, text: str) -> None:
        self._bar.write(text)

    def advanced(self, step: int) -> None:
        self._bar.update(step - self._bar.n)

    def logged(self, record: StepRecord) -> None:
        loss = {} if record.loss is None else {"loss": f"{record.loss:.3f}"}
        self._bar.set_postfix({**loss, "lr": f"{record.lr:.2g}", "images/s": f"{record.images_per_second:,.0f}"})

    def evaluated(self, record: EpochRecord | EvaluationRecord) -> None:
        if isinstance(record, EvaluationRecord):
            where = f"update {record.step:,}"
        else:
            where = f"epoch {record.epoch}" if record.epoch else "before"
        self._bar.write(f"{where}: top-1 {record.top1:.2f} %, top-5 {record.top5:.2f} %, loss {record.eval_loss:.3f}")

    def noticed(self, text: str) -> None:
        self._bar.write(f"note: {text}")
