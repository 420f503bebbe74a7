"""Going back to an earlier checkpoint of a run: whatever its folder holds of later updates is removed or replaced."""

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
from growtool.finetune.state.folder import RunFolder, Saver, link, remove
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import EpochRecord
from growtool.finetune.state.snapshot import put_back, take
from growtool.finetune.update.loop import Trainer


@dataclass(frozen=True, slots=True)
class Best:
    """The best epoch of the part of a run that is kept.

    Attributes:
        record: evaluation of the epoch; None if the weights of no such epoch are left.
        path: the folder that holds its weights: `best/`, or one with the state of the end of the epoch.
        weights: evaluated weights, to be written to `best/`; None if they are there already, and in all processes but
            the first.
    """

    record: EpochRecord | None = None
    path: Path | None = None
    weights: Mapping[str, Tensor] | None = None


def mend(folder: RunFolder) -> None:
    """Restore folders that were stepping aside for a new one when the run crashed; remove what is half-written.

    Only call this with the folder's lock held: hidden names of all processes are taken for leftovers.
    """
    for place in (folder.root, folder.checkpoints):
        for path in place.glob(f".*{ASIDE}"):
            target = place / path.name.split(".")[1]  # `.NAME.PROCESS.old`, see `staging.prefix_for`
            path.rename(target) if not target.exists() else shutil.rmtree(path)
        for path in place.glob(f".*{TEMPORARY}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def find_best(folder: RunFolder, course: RunProgress, trainer: Trainer) -> Best:
    """Find the best epoch up to `course`, or the last one if the weights of the best are not kept anywhere.

    Every process must call this. It may change the state of `trainer`.

    Args:
        course: progress of the run at the checkpoint that it resumes from.
        trainer: loads the weights if they have to be written to `best/`.

    Raises:
        CheckpointError: the checkpoint that holds the weights is damaged.
    """
    for record in (course.best, course.last):
        if record is None:
            continue
        if _holds(folder.best, record):
            return Best(record, folder.best)
        if (path := _epoch_end(folder, record)) is not None:
            put_back(path, trainer)
            snapshot = take(trainer, course, Copies() if trainer.world.is_main else None)
            return Best(replace(record, best=True), path, snapshot.evaluated if snapshot is not None else None)
    return Best()


def rewind(folder: RunFolder, course: RunProgress, best: Best, saver: Saver) -> list[str]:
    """Make `folder` what it was after the last update of `course`, from where the run will continue.

    Args:
        course: progress of the run at the checkpoint that it resumes from.
        best: what `best/` becomes, see `find_best`.

    Returns:
        The paths, relative to `folder`, of what was removed or replaced: checkpoints of later updates, and `best` and
        `last` if they were of later epochs.
    """
    given_up = sorted(path for path in folder.checkpoints.glob("step-*") if path > folder.of_step(course.step))
    for path in given_up:
        remove(path)
    if best.path != folder.best:
        given_up += [folder.best] if folder.best.exists() else []
        if best.path is None or best.weights is None:
            remove(folder.best)
        else:
            told = parse_json((best.path / TRAINING).read_bytes(), str(best.path / TRAINING))
            saver.save_best(best.weights, told)
    end = _epoch_end(folder, course.last) if course.last is not None else None
    if end != folder.last:
        given_up += [folder.last] if folder.last.exists() else []
        link(end, folder.last) if end is not None else remove(folder.last)
    return [str(path.relative_to(folder.root)) for path in given_up]


def _epoch_end(folder: RunFolder, record: EpochRecord) -> Path | None:
    """Return the folder with the state at the end of an epoch, `last/` or one in `checkpoints/`; None if neither is."""
    paths = folder.last, folder.of_step(record.step)
    return next((path for path in paths if _holds(path, record)), None)


def _holds(path: Path, record: EpochRecord) -> bool:
    """Return whether a folder is of the end of this epoch, with the same results."""
    try:
        told = parse_json((path / TRAINING).read_bytes(), str(path / TRAINING))
        found = told["epoch"], told["step"], told["evaluation"]["top1"], told["evaluation"]["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(found == (record.epoch, record.step, record.top1, record.eval_loss))
