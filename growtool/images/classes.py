"""The classes of a split held against those of a checkpoint.

A class's number is its place in the checkpoint's `label_names` where it has them, and otherwise its place among the
folder names in timm's natural order.
"""

from __future__ import annotations

from collections.abc import Sequence

from growtool.errors import PlanError, some
from growtool.images.split import Split


def class_names(
    split: Split, *, num_classes: int, label_names: Sequence[str] | None, checkpoint: str
) -> tuple[str, ...]:
    """The classes in the order of the model's logits.

    Raises:
        PlanError: the folders are not the classes the checkpoint was trained on.
    """
    if label_names is not None:
        if split.classes:
            _require_same(split, label_names, checkpoint)
        return tuple(label_names)
    if split.classes and len(split.classes) != num_classes:
        raise PlanError(
            f"{split.root}: found {len(split.classes)} class folders ({some(split.classes)}), expected {num_classes}, "
            f"the number of classes of {checkpoint}; use the data set it was trained on, or train a fresh head with "
            f"--num-classes {len(split.classes)}"
        )
    return split.classes


def number_classes(split: Split, names: Sequence[str]) -> None:
    """From now on the items of `split.images` carry each class's place in `names`.

    Raises:
        PlanError: the split has a class that is not among them.
    """
    if not split.classes:
        return
    unknown = [name for name in split.classes if name not in set(names)]
    if unknown:
        raise PlanError(
            f"{split.root}: found classes {some(unknown)}, expected only those the model trains on ({some(names)}); "
            "remove or rename these folders"
        )
    place = {name: number for number, name in enumerate(names)}
    split.images.target_transform = [place[name] for name in split.classes].__getitem__


def _require_same(split: Split, label_names: Sequence[str], checkpoint: str) -> None:
    missing = [name for name in label_names if name not in set(split.classes)]
    extra = [name for name in split.classes if name not in set(label_names)]
    if missing or extra:
        parts = [f"missing {some(missing)}"] if missing else []
        parts += [f"not among them {some(extra)}"] if extra else []
        raise PlanError(
            f"{split.root}: the class folders are not the {len(label_names)} classes of {checkpoint} (its label_names)"
            f": {'; '.join(parts)}; rename the folders to match, use the data set the checkpoint was trained on, or "
            f"train a fresh head with --num-classes {len(split.classes)}"
        )
