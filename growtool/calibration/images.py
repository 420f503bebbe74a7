"""Images for growth: a few batches out of a folder, the same at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from growtool.errors import PlanError
from growtool.images import TRAIN_SPLITS, ImageFormat, LabelledImages
from growtool.plan.schema import Data


@dataclass(frozen=True)
class Calibration:
    """Batches of labelled images, prepared as for a model's evaluation.

    Attributes:
        images: in the order in which they are seen.
        batch_size: number of images in a batch.
        transform: from a PIL image to an input [channels, height, width].
    """

    images: LabelledImages
    batch_size: int
    transform: Callable[[Any], Tensor]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [N, C, H, W] and class numbers [N], batch by batch.

        Raises:
            CheckpointError: an image cannot be read.
        """
        for batch in self.images.batches(self.transform, self.batch_size):
            yield batch.inputs, batch.labels


def open_images(data: Data, model: nn.Module, *, label_names: Sequence[str] | None, checkpoint: str) -> Calibration:
    """Return the images of `data` that growth will see: whole batches, spread evenly over the files and the classes.

    Args:
        data: the plan's section.
        model: its `pretrained_cfg` says how images are prepared; no weight is read.
        label_names: the checkpoint's classes, or None if it does not tell them.
        checkpoint: its name, for messages.

    Raises:
        PlanError: there is no such folder, its classes are not the model's, or it has fewer images than the plan asks
            for.
    """
    format = ImageFormat.of(model)
    images = LabelledImages.of(
        Path(data.path),
        TRAIN_SPLITS,
        channels=format.input_size[0],
        num_classes=int(getattr(model, "num_classes", 0)),
        label_names=label_names,
        checkpoint=checkpoint,
        said="data",
    )
    needed = data.batches * data.batch_size
    if len(images) < needed:
        raise PlanError(
            f"data: found {len(images)} images in {images.split.root}, expected the {needed} of {data.batches} batches "
            f"of {data.batch_size}; lower data.batches or data.batch_size, or add images"
        )
    # Files are sorted by class: spread the images over all files, and deal them out to the batches in turn, so that
    # each batch meets the classes evenly.
    chosen = [i * len(images) // needed for i in range(needed)]
    ordered = [chosen[i] for start in range(data.batches) for i in range(start, needed, data.batches)]
    return Calibration(
        images=replace(images, order=ordered),
        batch_size=data.batch_size,
        transform=format.evaluation(),
    )
