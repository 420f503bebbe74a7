"""What two checkpoints decide on labelled images, and on which of them they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.verify.logits import Comparison
from growtool.verify.pair import require_comparable
from growtool.verify.stream import StreamedModel

if TYPE_CHECKING:
    from PIL.Image import Image

Sample = tuple[Path, int]  # an image file and the number of its class
_PREPROCESSING = ("interpolation", "mean", "std", "crop_pct", "crop_mode")


@dataclass(frozen=True, slots=True)
class ChangedDecision:
    """An image the two checkpoints put into different classes.

    Attributes:
        file: the image.
        label, source, target: numbers of its own class and of the two decisions.
        margin: distance between the source's two leading logits over its largest absolute logit on this image. Logits
            that differ by a share r of that largest one can only change decisions with a margin up to 2 r.
    """

    file: Path
    label: int
    source: int
    target: int
    margin: float


@dataclass(frozen=True, slots=True)
class ImageComparison:
    """Both checkpoints on the same labelled images.

    Attributes:
        logits: how far their logits are apart over all images.
        source_top1, target_top1: share of the images each puts into the labelled class, 0 to 1.
        changed: the images they decide differently.
    """

    logits: Comparison
    source_top1: float
    target_top1: float
    changed: tuple[ChangedDecision, ...]


def compare_images(
    source: Checkpoint,
    target: Checkpoint,
    samples: Sequence[Sample],
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda images: None,
) -> ImageComparison:
    """Run both checkpoints on images, prepared as their `pretrained_cfg` says for evaluation.

    Args:
        source, target: the two checkpoints.
        samples: at least one image file with its class number.
        dtype: the type of the arithmetic.
        batch_size: images at a time.
        advance: called after each batch with the number of images done.

    Raises:
        CheckpointError: the weights are not those of the architecture, or an image cannot be read.
        PlanError: the two cannot be compared (see `require_comparable`), or prepare their images differently.
    """
    models = StreamedModel(source, dtype), StreamedModel(target, dtype)
    require_comparable(*models, decide=True)
    transform = _common_transform(*models)
    parts: list[Comparison] = []
    changed: list[ChangedDecision] = []
    right = torch.zeros(2, dtype=torch.int64)
    mode = "L" if models[0].input_size[0] == 1 else "RGB"
    for batch, images in image_batches(samples, transform, batch_size, mode):
        a, b = (model(images) for model in models)
        labels = torch.tensor([label for _, label in batch])
        right += torch.stack([(logits.argmax(1) == labels).sum() for logits in (a, b)])
        parts.append(Comparison.of(a, b))
        changed += _changed(batch, a, b)
        advance(len(batch))
    source_top1, target_top1 = (right.double() / len(samples)).tolist()
    return ImageComparison(Comparison.merge(parts), source_top1, target_top1, tuple(changed))


def _common_transform(source: StreamedModel, target: StreamedModel) -> Callable[[Any], Tensor]:
    """What turns a PIL image into an input [channels, height, width]; timm's for evaluation."""
    from timm.data import create_transform, resolve_data_config

    configs = [resolve_data_config({"input_size": side.input_size}, model=side.model) for side in (source, target)]
    a, b = ({key: _tupled(config[key]) for key in _PREPROCESSING} for config in configs)
    problems = [
        f"pretrained_cfg.{key}: {source.checkpoint.name} has {a[key]}, {target.checkpoint.name} has {b[key]}; "
        "expected the same, as both see the same inputs; correct one config.json"
        for key in _PREPROCESSING
        if a[key] != b[key]
    ]
    if problems:
        raise PlanError(problems)
    return create_transform(**configs[0], is_training=False)  # type: ignore[no-any-return]


def _tupled(value: Any) -> Any:
    """JSON reads as a list what timm's own defaults hold as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def image_batches(
    samples: Sequence[Sample], transform: Callable[[Any], Tensor], size: int, mode: str = "RGB"
) -> Iterator[tuple[Sequence[Sample], Tensor]]:
    """Samples with their inputs [batch, channels, height, width]; the images of a batch are decoded in parallel.

    Args:
        samples: image files with their class numbers.
        transform: a PIL image of `mode` to an input [channels, height, width].
        size: samples of a batch; the last one may have fewer.
        mode: `RGB`, or `L` for greyscale.

    Raises:
        CheckpointError: an image cannot be read.
    """

    def load(path: Path) -> Tensor:
        return transform(_open(path, mode))

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            yield batch, torch.stack(list(pool.map(load, (path for path, _ in batch))))


def _open(path: Path, mode: str) -> Image:
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return image.convert(mode)
    except OSError as error:  # what PIL raises for whatever it cannot decode
        raise CheckpointError(f"{path}: cannot read the image: {error}; restore or remove the file") from error


def _changed(batch: Sequence[Sample], a: Tensor, b: Tensor) -> list[ChangedDecision]:
    source, target = a.argmax(1), b.argmax(1)
    changed = []
    for i in (source != target).nonzero().flatten().tolist():
        first, second = a[i].topk(2).values.tolist()
        margin = (first - second) / a[i].abs().max().item()
        file, label = batch[i]
        changed.append(ChangedDecision(file, label, int(source[i]), int(target[i]), margin))
    return changed
