"""Whether two checkpoints can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.images import other_classes
from growtool.verify.stream import StreamedModel


def common_input_size(source: Checkpoint, target: Checkpoint, *, decide: bool = False) -> tuple[int, int, int]:
    """The channels, height and width of images both checkpoints take; no weight is read.

    Raises:
        CheckpointError: the weights of a checkpoint are not those of its architecture.
        PlanError: the two cannot be compared (see `require_comparable`).
    """
    return require_comparable(StreamedModel(source), StreamedModel(target), decide=decide)


def require_comparable(source: StreamedModel, target: StreamedModel, *, decide: bool = False) -> tuple[int, int, int]:
    """The channels, height and width of images both models take.

    Args:
        source, target: the two models.
        decide: whether they have to tell classes apart.

    Raises:
        PlanError: the models take images of different sizes, tell other classes apart or in another order, or none
            where they have to.
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
    names = [side.checkpoint.spec.label_names for side in (source, target)]
    if difference := other_classes(*names):
        problems.append(
            f"classes: {b}: {difference} as in {a} (label_names in config.json); name two checkpoints whose logits are "
            "of the same classes in the same order"
        )
    problems += [
        f"classes: {side.checkpoint.name} has no classifier (num_classes 0), expected one that labels can be held "
        "against; name a checkpoint with its head, or compare features on random inputs alone"
        for side in (source, target)
        if decide and side.num_classes == 0
    ]
    if problems:
        raise PlanError(problems)
    return source.input_size


def require_same_shapes(source: Checkpoint, target: Checkpoint, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Raises PlanError where two models return tensors of different shapes for the same images."""
    shapes = [[list(tensor.shape[1:]) for tensor in outputs] for outputs in (a, b)]
    if shapes[0] != shapes[1]:
        raise PlanError(
            f"features: {source.name} returns {_shapes(shapes[0])} for an image, {target.name} {_shapes(shapes[1])}; "
            "expected the same, as both are compared number by number; where one was grown from the other, the figure "
            "under `verified` in its growth.json compares what grew with its origin"
        )


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(map(str, shapes))


def _size(size: tuple[int, int, int]) -> str:
    return "x".join(str(n) for n in size)
