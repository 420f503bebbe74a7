"""The records of a run on disk: `metrics.jsonl`, `summary.csv`, and the trackers of `--log`."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from growtool.checkpoint import atomic_file
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import (
    CheckpointRecord,
    EpochRecord,
    EvaluationRecord,
    Record,
    StepRecord,
    UnreadableRecord,
)

METRICS, SUMMARY = "metrics.jsonl", "summary.csv"
_EVENTS = {
    StepRecord: "step",
    EpochRecord: "epoch",
    EvaluationRecord: "evaluation",
    CheckpointRecord: "checkpoint",
    UnreadableRecord: "unreadable",
}


class Journal:
    """Writes a line of `metrics.jsonl` for each record at once, and a row of `summary.csv` for each epoch.

    Args:
        trackers: receive all numbers of the records, too.
        course: on resuming, the progress to continue from: later records are removed. None removes all records.

    Attributes:
        evaluated: on resuming, the updates after which the kept records hold an evaluation.
    """

    def __init__(self, folder: Path, trackers: tuple[Tracker, ...] = (), course: RunProgress | None = None) -> None:
        self._summary = folder / SUMMARY
        self._trackers = trackers
        path = folder / METRICS
        kept = [] if course is None else [event for event in read_events(path) if _is_before(event, course)]
        with atomic_file(path) as file:
            file.write("".join(_line(event) for event in kept).encode())
        self._epochs = [event for event in kept if event["event"] == "epoch"]
        self.evaluated = {event["step"] for event in kept if event["event"] in ("epoch", "evaluation")}
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def write(self, record: Record) -> None:
        """Append one record."""
        event: dict[str, Any] = {"event": _EVENTS[type(record)], **asdict(record)}
        self._file.write(_line(event))
        self._file.flush()
        if isinstance(record, EpochRecord):
            self._epochs.append(event)
            self._write_summary()
        numbers = {
            f"{event['event']}/{key}": float(value) for key, value in event.items() if isinstance(value, int | float)
        }
        for tracker in self._trackers:
            tracker.write(numbers, record.step)

    def _write_summary(self) -> None:
        text = io.StringIO()
        table = csv.DictWriter(text, [f.name for f in fields(EpochRecord)], extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(self._epochs)
        with atomic_file(self._summary) as file:
            file.write(text.getvalue().encode())


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a `metrics.jsonl`, without a last line that a crash cut short.

    Raises:
        CheckpointError: the file is missing, or another line is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}), expected the metrics of a run") from error
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise CheckpointError(f"{path}:{number}: not JSON ({error}); restore the file") from error
        if (
            not isinstance(event, dict)
            or not _is_number(event.get("step"))
            or event.get("event") not in _EVENTS.values()
        ):
            raise CheckpointError(f"{path}:{number}: found no record of a run, expected one; restore the file")
        if event["event"] == "epoch" and not _is_number(event.get("epoch")):
            raise CheckpointError(f"{path}:{number}: found no number of the epoch, expected one; restore the file")
        yield event


def open_trackers(names: tuple[str, ...], folder: Path, settings: Mapping[str, Any]) -> tuple[Tracker, ...]:
    """Return the trackers of these names, which are installed, ready to write.

    Args:
        names: `tensorboard`, `wandb` or `trackio`.
        folder: the run's folder; its name becomes that of the run in wandb and trackio.
        settings: the run's configuration, for wandb and trackio.
    """
    return tuple(_TensorBoard(folder) if name == "tensorboard" else _Online(name, folder, settings) for name in names)


def require_installed(names: tuple[str, ...]) -> None:
    """Check that the packages of these trackers can be imported.

    Raises:
        PlanError: a line for each that cannot.
    """
    problems = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            problems.append(f"--log {name}: not installed; pip install {name}, or drop the option")
    if problems:
        raise PlanError(problems)


class _TensorBoard:
    """A tracker that writes TensorBoard's event files into the run's folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Online:
    """A tracker for wandb, or for trackio, whose `init`, `log` and `finish` are the same."""

    def __init__(self, package: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._package: Any = importlib.import_module(package)
        self._package.init(project="growtool", name=folder.resolve().name, config=dict(settings))

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._package.log(dict(values), step=step)

    def close(self) -> None:
        self._package.finish()


Tracker = _TensorBoard | _Online


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, allow_nan=False) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_before(event: Mapping[str, Any], course: RunProgress) -> bool:
    key = "epoch" if event["event"] == "epoch" else "step"
    return bool(event[key] <= getattr(course, key))
