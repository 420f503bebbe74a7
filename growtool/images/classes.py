"""Comparison of the classes of images with those of a checkpoint, and of the classes of two checkpoints.

The number of a class is its place in the checkpoint's `label_names`; without these, its place among the names of the
classes of the data, in their order. Two spellings of a name in Unicode (NFC, NFD) are the same name.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from growtool.errors import CheckpointError, PlanError, format_names
from growtool.images.listing import composed
from growtool.images.split import Split


@dataclass(frozen=True, slots=True)
class ClassNumbers:
    """A map from the labels of a dataset to the numbers of a model's classes.

    Attributes:
        root: the place of the data, for messages.
        places: number of a class by label; None if labels are the numbers themselves.
        count: number of classes of the model; 0 if it has no classifier, so that any number will do.
    """

    root: Path
    places: tuple[int, ...] | None
    count: int

    def __call__(self, label: Any) -> int:
        """Return the number of the class of a label; raise PlanError if there is no such class."""
        limit = self.count if self.places is None else len(self.places)
        try:
            value = label.item() if hasattr(label, "item") else label  # of numpy or torch
            number = operator.index(int(value) if isinstance(value, float) and value.is_integer() else value)
        except (TypeError, ValueError):  # not a whole number, or an array of several
            number = -1
        if number < 0 or (limit and number >= limit):
            expected = f"the number of a class, 0 to {limit - 1}" if limit else "the number of a class"
            raise PlanError(
                f"{self.root}: found the label {label!r}, expected {expected}; name the field that holds it "
                "with --set data_kwargs={target_key: NAME}, or correct the data"
            )
        return number if self.places is None else self.places[number]


def class_names(
    split: Split, *, num_classes: int, label_names: Sequence[str] | None, checkpoint: str, some_do: bool = False
) -> tuple[str, ...]:
    """Return the names of the classes in the order of the model's logits; none if neither side has names.

    Args:
        split: the images; may have no names of classes.
        num_classes: number of logits of the model.
        label_names: names of the classes in the checkpoint; None if it has none.
        checkpoint: name of the checkpoint, for messages.
        some_do: whether the split may lack some of the classes in `label_names`.

    Raises:
        PlanError: the classes of the split are not those of the checkpoint, or not as many as the model's.
        CheckpointError: `label_names` are not as many as the logits, or one is there twice.
    """
    if label_names is not None:
        require_names(label_names, num_classes, checkpoint)
        if split.classes and not some_do:
            _require_same(split, label_names, checkpoint)
        return tuple(label_names)
    if split.classes and len(split.classes) != num_classes:
        raise PlanError(
            f"{split.root}: found {len(split.classes)} class folders ({format_names(split.classes)}){_without(split)}, "
            f"expected {num_classes}, the number of classes of {checkpoint}; use the data set it was trained on, or "
            f"train a fresh head with --num-classes {len(split.classes)}"
        )
    return split.classes


def numbered(split: Split, names: Sequence[str], *, num_classes: int) -> Split:
    """Return the split with classes numbered by their place in `names`; by their label if it has no names of classes.

    Args:
        names: names of the classes in the order of the model's logits.
        num_classes: number of logits of the model; 0 if any number will do.

    Raises:
        PlanError: the split has a class that is not in `names`.
    """
    if not split.classes:
        return replace(split, number=ClassNumbers(split.root, None, num_classes))
    place = {composed(name): number for number, name in enumerate(names)}
    unknown = [name for name in split.classes if composed(name) not in place]
    if unknown:
        raise PlanError(
            f"{split.root}: found classes {format_names(unknown)}{_without(split)}, expected only those the model "
            f"trains on ({format_names(names)}); remove or rename these folders"
        )
    places = tuple(place[composed(name)] for name in split.classes)
    return replace(split, number=ClassNumbers(split.root, places, num_classes))


def require_names(label_names: Sequence[str], num_classes: int, checkpoint: str) -> None:
    """Check that a checkpoint has a name for each of its logits, and each name once.

    Raises:
        CheckpointError: it has more or fewer names, or one of them twice.
    """
    problems = []
    if len(label_names) != num_classes:
        problems.append(
            f"{checkpoint}: label_names in its config.json holds {len(label_names)} names "
            f"({format_names(label_names)}), expected {num_classes}, one for each logit of the model"
        )
    first: dict[str, int] = {}
    for number, name in enumerate(label_names):
        if (before := first.setdefault(composed(name), number)) != number:
            problems.append(
                f"{checkpoint}: label_names in its config.json holds {name!r} twice, as classes {before} and {number}, "
                "expected each name once"
            )
    if problems:
        raise CheckpointError(
            [f"{problem}; correct label_names, or remove it from config.json" for problem in problems]
        )


def other_classes(ours: Sequence[str] | None, theirs: Sequence[str] | None) -> str | None:
    """Return words on the first class that differs between two networks; None if none does, or one has no names."""
    if not ours or not theirs:
        return None
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if composed(mine) != composed(other):
            order = ", as they are the same in another order" if _sorted(ours) == _sorted(theirs) else ""
            return f"class {number} is {other!r}, expected {mine!r}{order}"
    return None if len(ours) == len(theirs) else f"{len(theirs)} label_names, expected {len(ours)}"


def _sorted(names: Sequence[str]) -> list[str]:
    return sorted(map(composed, names))


def _require_same(split: Split, label_names: Sequence[str], checkpoint: str) -> None:
    """Raise PlanError unless the split has exactly these classes, in any order."""
    found, known = set(map(composed, split.classes)), set(map(composed, label_names))
    missing = [name for name in label_names if composed(name) not in found]
    extra = [name for name in split.classes if composed(name) not in known]
    if missing or extra:
        parts = [f"missing {format_names(missing)}"] if missing else []
        parts += [f"not among them {format_names(extra)}"] if extra else []
        raise PlanError(
            f"{split.root}: the class folders are not the {len(label_names)} classes of {checkpoint} (its label_names)"
            f": {'; '.join(parts)}{_without(split)}; rename the folders to match, use the data set the checkpoint was "
            f"trained on, or train a fresh head with --num-classes {len(split.classes)}"
        )


def _without(split: Split) -> str:
    """Return words on what the split leaves out: a class may be missing because its files are no images."""
    return f" ({split.left_out})" if split.left_out else ""
