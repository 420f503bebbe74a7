"""The cost of training that led to a checkpoint, read from the records beside it."""

from __future__ import annotations

from pathlib import Path

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import TRAINING
from growtool.checkpoint.documents import parse_json
from growtool.hub.names import LOCAL
from growtool.report.inspect import read_lineage
from growtool.report.macs import macs_of, training_macs

BEFORE = "source_training_macs"
"""Key of a step of growth in the lineage: MACs of all training that led to its source."""


def recorded_macs(checkpoint: Checkpoint) -> int | None:
    """Return the MACs of all training that led to a checkpoint, as runs of `growtool finetune` have recorded it.

    Trainings since the last growth are counted by their records. A run that started from the folder of another run adds
    to it, as long as that folder is still in its place. The cost of all before the last growth is in the lineage.
    Passes of a teacher do not count.

    Returns:
        None if there are no records.

    Raises:
        CheckpointError: a record is damaged.
    """
    if checkpoint.folder is None:
        return None
    seen = _images_seen(checkpoint.path.parent, frozenset())
    steps = read_lineage(checkpoint)
    before = steps[-1].get(BEFORE) if steps else None
    if not seen:
        return None if before is None else int(before)
    return training_macs(macs_of(checkpoint.spec, where=checkpoint.name), seen) + int(before or 0)


def _images_seen(folder: Path, passed: frozenset[Path]) -> int:
    """Return how many images the checkpoint in `folder` was trained on, and those that it was trained from.

    `passed` are folders that were counted already, so that records which name each other are not followed without end.
    """
    record = folder / TRAINING
    if folder.resolve() in passed or not record.is_file():
        return 0
    training = parse_json(record.read_bytes(), str(record))
    config = training.get("config") if isinstance(training, dict) else None
    if not isinstance(config, dict) or "step" not in training:
        return 0
    start = Path(str(config["checkpoint"]).removeprefix(LOCAL))  # a folder, a file in one, or a name
    seen = int(training["step"]) * int(config["batch_size"])
    if not start.exists():  # the parent of a name would be the working folder
        return seen
    return seen + _images_seen(start if start.is_dir() else start.parent, passed | {folder.resolve()})
