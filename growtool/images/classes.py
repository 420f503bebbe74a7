"""The classes of images held against those of a checkpoint, and the classes of two checkpoints against each other.

A class's number is its place in the checkpoint's `label_names` where it has them, and otherwise its place among the
names that the data tell, in their order. Two spellings of a name in Unicode (NFC, NFD) are one name.
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
    """From the labels of a data set to the numbers of a model's classes.

    Attributes:
        root: where the data are, for messages.
        places: number by label; None where labels are the numbers themselves.
        count: of the classes; 0 where any will do.
    """

    root: Path
    places: tuple[int, ...] | None
    count: int

    def __call__(self, label: Any) -> int:
        """Raises PlanError where there is no such class."""
        limit = self.count if self.places is None else len(self.places)
        try:
            value = label.item() if hasattr(label, "item") else label
            number = operator.index(int(value) if isinstance(value, float) and value.is_integer() else value)
        except (TypeError, ValueError):  # of an array of several
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
    """The classes in the order of the model's logits.

    Args:
        split: tells its classes, or none.
        num_classes: logits of the model.
        label_names: the checkpoint's classes where it tells them.
        checkpoint: its name, for messages.
        some_do: whether the split may lack some of the checkpoint's `label_names`.

    Raises:
        PlanError: the folders are not the classes the checkpoint was trained on.
        CheckpointError: its label names are not the classes of the model.
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
    """The split with each class's place in `names` as its number, or the label itself where the split has no names.

    Raises:
        PlanError: the split has a class that is not among them.
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
    """Hold the names of classes that a checkpoint carries against its logits.

    Raises:
        CheckpointError: there are more or fewer, or one of them is there twice.
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
    """How the classes of two networks differ, by the first that does; None where they do not, or one tells none."""
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
    return f" ({split.left_out})" if split.left_out else ""
