"""The decisions of two checkpoints on labelled images, and the images on which they differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.images import Batch, ImageFormat, LabelledImages, Split, require_images
from growtool.verify.logits import Comparison
from growtool.verify.pair import require_comparable
from growtool.verify.stream import CPU, StreamedModel

# keys of `pretrained_cfg` that have to agree; the input size is compared by `require_comparable`
_PREPROCESSING = ("interpolation", "mean", "std", "crop_pct", "crop_mode")


@dataclass(frozen=True, slots=True)
class ChangedDecision:
    """An image that the two checkpoints put into different classes.

    Attributes:
        file: the image, by its path or its name in a tar file.
        label, source, target: class numbers: of the image, and of the two decisions.
        margin: distance between the source's two leading logits over its largest absolute logit on this image. Logits
            that differ by a share r of that largest one can only change decisions with a margin up to 2 r.
    """

    file: str
    label: int
    source: int
    target: int
    margin: float


@dataclass(frozen=True, slots=True)
class ImageComparison:
    """Both checkpoints on the same labelled images.

    Attributes:
        logits: the difference of their logits over all images.
        source_top1, target_top1: share of the images that each puts into the labelled class, 0 to 1.
        changed: the images that they decide differently.
    """

    logits: Comparison
    source_top1: float
    target_top1: float
    changed: tuple[ChangedDecision, ...]


def compare_images(
    source: Checkpoint,
    target: Checkpoint,
    images: LabelledImages,
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    device: torch.device = CPU,
    advance: Callable[[int], None] = lambda images: None,
) -> ImageComparison:
    """Run both checkpoints on images, prepared as their `pretrained_cfg` says for evaluation.

    Args:
        source, target: the two checkpoints.
        images: at least one; their class numbers are those of the logits.
        dtype: the type of the arithmetic.
        batch_size: images at a time.
        device: computes the logits, which are compared on the CPU.
        advance: called after each batch with the number of images done.

    Raises:
        CheckpointError: the weights are not those of the architecture, or an image cannot be read.
        PlanError: the two cannot be compared (see `require_comparable`), or prepare their images differently.
    """
    for checkpoint in (source, target):
        require_images(checkpoint.spec, checkpoint.name)
    models = StreamedModel(source, dtype, device=device), StreamedModel(target, dtype, device=device)
    require_comparable(*models, decide=True)
    transform = _common_transform(*models)
    parts: list[Comparison] = []
    changed: list[ChangedDecision] = []
    right = torch.zeros(2, dtype=torch.int64)
    for batch in images.batches(transform, batch_size):
        a, b = (model(batch.inputs) for model in models)
        right += torch.stack([(logits.argmax(1) == batch.labels).sum() for logits in (a, b)])
        parts.append(Comparison.of(a, b))
        changed += _changed(images.split, batch, a, b)
        advance(len(batch.places))
    source_top1, target_top1 = (right.double() / len(images)).tolist()
    return ImageComparison(Comparison.merge(parts), source_top1, target_top1, tuple(changed))


def _common_transform(source: StreamedModel, target: StreamedModel) -> Callable[[Any], Tensor]:
    """Return timm's transform for evaluation, from a PIL image to an input [channels, height, width].

    Raises:
        PlanError: the two models prepare images differently.
    """
    formats = [ImageFormat.of(side.model) for side in (source, target)]
    a, b = ({key: getattr(format, key) for key in _PREPROCESSING} for format in formats)
    problems = [
        f"pretrained_cfg.{key}: {source.checkpoint.name} has {a[key]}, {target.checkpoint.name} has {b[key]}; "
        "expected the same, as both see the same inputs; correct one config.json"
        for key in _PREPROCESSING
        if a[key] != b[key]
    ]
    if problems:
        raise PlanError(problems)
    return formats[0].evaluation()


def _changed(split: Split, batch: Batch, a: Tensor, b: Tensor) -> list[ChangedDecision]:
    """Return the images of a batch that logits a and b [N, classes] decide differently."""
    source, target = a.argmax(1), b.argmax(1)
    changed = []
    for i in (source != target).nonzero().flatten().tolist():
        first, second = a[i].topk(2).values.tolist()
        margin = (first - second) / a[i].abs().max().item()
        name, label = split.name_of(batch.places[i]), int(batch.labels[i])
        changed.append(ChangedDecision(name, label, int(source[i]), int(target[i]), margin))
    return changed
