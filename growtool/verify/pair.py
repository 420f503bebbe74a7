"""Whether two checkpoints can be compared at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from growtool.errors import PlanError

if TYPE_CHECKING:
    from growtool.verify.stream import StreamedModel


def require_comparable(source: StreamedModel, target: StreamedModel) -> tuple[int, int, int]:
    """The channels, height and width of images both models take.

    Raises:
        PlanError: the models take images of different sizes or tell different numbers of classes apart, or have no
            classifier whose output could be compared.
    """
    a, b = source.checkpoint.name, target.checkpoint.name
    problems = []
    if source.input_size != target.input_size:
        problems.append(
            f"input size: {a} takes {_size(source.input_size)} images, {b} takes {_size(target.input_size)}; expected the "
            "same; name two checkpoints with the same input_size (and img_size in model_args)"
        )
    classes = [getattr(side.model, "num_classes", None) for side in (source, target)]
    if classes[0] != classes[1]:
        problems.append(
            f"classes: {a} has {classes[0]}, {b} has {classes[1]}; expected the same number; "
            "name two checkpoints trained on the same classes"
        )
    problems += [
        f"classes: {side.checkpoint.name} has no classifier (num_classes 0), expected logits to compare; "
        "name a checkpoint with its head"
        for side, count in zip((source, target), classes, strict=True)
        if count == 0
    ]
    if problems:
        raise PlanError(problems)
    return source.input_size


def _size(size: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in size)
