"""What training the source has cost, which training the target from scratch may spend as well."""

from __future__ import annotations

from pathlib import Path

from growtool.checkpoint.documents import parse_json
from growtool.checkpoint.folder import TRAINING
from growtool.report.macs import macs_of, training_macs
from growtool.study.study import Study


def source_cost(study: Study, images: int) -> int | None:
    """MACs: as the user says, or as the runs of `growtool finetune` have left it that led to the source.

    Args:
        study: says how many epochs, where the user does.
        images: of an epoch.

    Returns:
        None where nothing tells. What a checkpoint was trained from counts as long as it is still where it was; what
        came before it was grown does not.
    """
    told = study.source_epochs
    seen = _images_seen(study.source.path.parent, frozenset()) if told is None else round(told * images)
    if told is None and not seen:
        return None
    return training_macs(macs_of(study.source.spec, where=study.source.name), seen)


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
