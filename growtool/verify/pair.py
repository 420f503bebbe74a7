"""Whether two checkpoints can be compared: the checks, and inputs that both take."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.images import other_classes
from growtool.library import Inputs, Sizes, library_of
from growtool.verify.stream import StreamedModel, random_inputs


def common_inputs(source: Checkpoint, target: Checkpoint, count: int, seed: int, *, decide: bool = False) -> Inputs:
    """Return random inputs that both checkpoints take; no weight is read.

    Args:
        source, target: the two checkpoints.
        count: number of inputs.
        seed: of the random numbers.
        decide: whether the models have to tell classes apart.

    Raises:
        CheckpointError: the weights of a checkpoint are not those of its architecture.
        PlanError: the two cannot be compared (see `require_comparable`), or memory does not hold so many.
    """
    models = StreamedModel(source), StreamedModel(target)
    require_comparable(*models, decide=decide)
    return random_inputs(source.spec, models[0].model, count, seed)


def require_comparable(source: StreamedModel, target: StreamedModel, *, decide: bool = False) -> None:
    """Check that two models can be compared.

    Args:
        source, target: the two models.
        decide: whether they have to tell classes apart.

    Raises:
        PlanError: the models take inputs of different sizes, tell different classes apart or the same in another
            order, or tell none apart where they have to.
    """
    a, b = source.checkpoint.name, target.checkpoint.name
    problems = []
    words = source.library.words
    if source.input_sizes != target.input_sizes:
        problems.append(
            f"input size: {a} takes {_size(source.input_sizes)} {words.many}, {b} takes {_size(target.input_sizes)}; "
            f"expected the same; {words.alike}"
        )
    if source.classes != target.classes:
        problems.append(
            f"classes: {a} has {source.classes}, {b} has {target.classes}; expected the same number; "
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
        if decide and side.classes == 0
    ]
    if problems:
        raise PlanError(problems)


def require_same_shapes(source: Checkpoint, target: Checkpoint, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    """Check that two models return tensors of the same shapes for the same inputs; raise PlanError if not."""
    shapes = [[list(tensor.shape[1:]) for tensor in outputs] for outputs in (a, b)]
    if shapes[0] != shapes[1]:
        one = library_of(source.spec).words.one
        raise PlanError(
            f"features: {source.name} returns {_shapes(shapes[0])} for an {one}, {target.name} {_shapes(shapes[1])}; "
            "expected the same, as both are compared number by number; where one was grown from the other, the figure "
            "under `verified` in its growth.json compares what grew with its origin"
        )


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join(map(str, shapes))


def _size(sizes: Sizes) -> str:
    """Return sizes as text: `3x32x32`, or `name 3x32x32, ...` for several tensors."""
    texts = {name: "x".join(map(str, size)) for name, size in sizes.items()}
    return (
        next(iter(texts.values())) if len(texts) == 1 else ", ".join(f"{name} {text}" for name, text in texts.items())
    )
