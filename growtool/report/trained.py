"""What training a checkpoint has cost, as the records beside it tell."""

from __future__ import annotations

from pathlib import Path

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import TRAINING
from growtool.checkpoint.documents import parse_json
from growtool.report.inspect import read_lineage
from growtool.report.macs import macs_of, training_macs

BEFORE = "source_training_macs"
"""Under this name a step of growth in the lineage holds what training its source has cost."""


def recorded_macs(checkpoint: Checkpoint) -> int | None:
    """MACs of all training that led to a checkpoint, as the runs of `growtool finetune` have left it.

    Returns:
        None where nothing tells. What a checkpoint was trained from counts as long as it is still where it was; what
        came before it was grown, where the step of growth holds it. The passes of a teacher are not among them.

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
    """Images that the checkpoint in `folder` was trained on, and before it those it was trained from."""
    record = folder / TRAINING
    if folder.resolve() in passed or not record.is_file():
        return 0
    training = parse_json(record.read_bytes(), str(record))
    config = training.get("config") if isinstance(training, dict) else None
    if not isinstance(config, dict) or "step" not in training:
        return 0
    before = Path(config["checkpoint"])
    own = int(training["step"]) * int(config["batch_size"])
    return own + _images_seen(before if before.is_dir() else before.parent, passed | {folder.resolve()})
