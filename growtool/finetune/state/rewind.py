"""A run's folder made what it was after an earlier update: nothing in it is of a part of the run that was given up."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from growtool.checkpoint.beside import TRAINING
from growtool.checkpoint.documents import parse_json
from growtool.checkpoint.staging import ASIDE, TEMPORARY
from growtool.finetune.state.copies import Copies
from growtool.finetune.state.folder import RunFolder, Saver, link, remove, step_name
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import EpochRecord
from growtool.finetune.state.snapshot import put_back, take
from growtool.finetune.update.loop import Trainer


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch of what is kept of a run.

    Attributes:
        record: None where no epoch of it has its weights any more.
        path: the folder that has them.
        weights: those that count, where they are to be written to `best/`, in the process that writes.
    """

    record: EpochRecord | None = None
    path: Path | None = None
    weights: Mapping[str, Tensor] | None = None


def mend(folder: RunFolder) -> None:
    """Put back what a crash caught between two names, and remove what it caught half-written."""
    for place in (folder.root, folder.checkpoints):
        for path in place.glob(f".*{ASIDE}"):
            target = place / path.name.split(".")[1]
            path.rename(target) if not target.exists() else shutil.rmtree(path)
        for path in place.glob(f".*{TEMPORARY}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_best(folder: RunFolder, course: RunProgress, trainer: Trainer) -> Best:
    """The best epoch up to `course`, or the last one where nothing has the best one's weights any more.

    Every process must call this. `trainer` has another state afterwards.

    Raises:
        CheckpointError: the checkpoint that holds the weights is damaged.
    """
    for record in (course.best, course.last):
        for path in (folder.best, *_epoch_ends(folder, record)):
            if record is None or not _holds(path, record):
                continue
            if path == folder.best:
                return Best(record, path)
            put_back(path, trainer)
            snapshot = take(trainer, course, Copies() if trainer.world.is_main else None)
            return Best(replace(record, best=True), path, snapshot.evaluated if snapshot is not None else None)
    return Best()


def rewind(folder: RunFolder, course: RunProgress, best: Best, saver: Saver, *, averaged: bool) -> list[str]:
    """Make `folder` what it was after the last update of `course`, which the run will go on from.

    Args:
        folder: of the run.
        course: how far the run had come.
        best: what `best/` becomes.
        saver: writes it.
        averaged: whether the weights that count are an average.

    Returns:
        What is gone: checkpoints of later updates, and what `best` and `last` were where that was of later epochs.
    """
    given_up = sorted(path for path in folder.checkpoints.glob("step-*") if path.name > step_name(course.step))
    for path in given_up:
        remove(path)
    if best.path != folder.best:
        given_up += [folder.best] if folder.best.exists() else []
        if best.path is None or best.weights is None:
            remove(folder.best)
        else:
            told = parse_json((best.path / TRAINING).read_bytes(), str(best.path / TRAINING))
            saver.save(folder.best, best.weights, told | {"weights": "ema" if averaged else "model"})
    end = next((path for path in _epoch_ends(folder, course.last) if course.last and _holds(path, course.last)), None)
    if end != folder.last:
        given_up += [folder.last] if folder.last.exists() else []
        link(end, folder.last) if end is not None else remove(folder.last)
    return [str(path.relative_to(folder.root)) for path in given_up]


def _epoch_ends(folder: RunFolder, record: EpochRecord | None) -> list[Path]:
    """Where the state of the end of an epoch may be."""
    return [folder.last, folder.checkpoints / step_name(record.step)] if record is not None else []


def _holds(path: Path, record: EpochRecord) -> bool:
    """Whether a checkpoint is of this end of an epoch, with these results."""
    try:
        told = parse_json((path / TRAINING).read_bytes(), str(path / TRAINING))
        found = told["epoch"], told["step"], told["evaluation"]["top1"], told["evaluation"]["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(found == (record.epoch, record.step, record.top1, record.eval_loss))
