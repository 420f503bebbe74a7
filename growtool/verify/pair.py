"""Whether two checkpoints can be compared at all."""

from __future__ import annotations

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.verify.stream import StreamedModel


def common_input_size(source: Checkpoint, target: Checkpoint) -> tuple[int, int, int]:
    """The channels, height and width of images both checkpoints take; no weight is read.

    Raises:
        CheckpointError: the weights of a checkpoint are not those of its architecture.
        PlanError: the two cannot be compared (see `require_comparable`).
    """
    return require_comparable(StreamedModel(source), StreamedModel(target))


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
            f"input size: {a} takes {_size(source.input_size)} images, {b} takes {_size(target.input_size)}; "
            "expected the same; name two checkpoints with the same input_size (and img_size in model_args)"
        )
    if source.num_classes != target.num_classes:
        problems.append(
            f"classes: {a} has {source.num_classes}, {b} has {target.num_classes}; expected the same number; "
            "name two checkpoints trained on the same classes"
        )
    problems += [
        f"classes: {side.checkpoint.name} has no classifier (num_classes 0), expected logits to compare; "
        "name a checkpoint with its head"
        for side in (source, target)
        if side.num_classes == 0
    ]
    if problems:
        raise PlanError(problems)
    return source.input_size


def _size(size: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in size)
