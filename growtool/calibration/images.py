"""Images for growth: a few batches out of a folder, the same ones at every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from growtool.checkpoint import input_size
from growtool.errors import PlanError
from growtool.finetune.data import TRAIN_SPLITS, class_names, find_split, number_classes, open_split
from growtool.plan.schema import Data
from growtool.verify.images import Sample, image_batches


@dataclass(frozen=True)
class Calibration:
    """Batches of labelled images, prepared as a model's evaluation wants them.

    Attributes:
        samples: image files with their class numbers, in the order in which they are seen.
        batch_size: images of a batch.
        transform: a PIL image to an input [channels, height, width].
        mode: `RGB`, or `L` for models of one input channel.
    """

    samples: Sequence[Sample]
    batch_size: int
    transform: Callable[[Any], Tensor]
    mode: str

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images [B, C, H, W] and class numbers [B], one batch after the other.

        Raises:
            CheckpointError: an image cannot be read.
        """
        for part, images in image_batches(self.samples, self.transform, self.batch_size, self.mode):
            yield images, torch.tensor([label for _, label in part])


def open_images(data: Data, model: nn.Module, *, label_names: Sequence[str] | None, checkpoint: str) -> Calibration:
    """The images of `data` that growth will see: whole batches, spread evenly over the files and so over the classes.

    Args:
        data: the plan's section.
        model: prepares the images as its `pretrained_cfg` says; no weight is read.
        label_names: the checkpoint's classes where it tells them.
        checkpoint: its name, for messages.

    Raises:
        PlanError: no such folder, other classes than the model's, or fewer images than the plan asks for.
    """
    from timm.data import create_transform, resolve_data_config

    root = Path(data.path)
    inside = root.is_dir() and any((root / name).is_dir() for name in TRAIN_SPLITS)
    split = open_split(root if root.is_dir() and not inside else find_split(root, TRAIN_SPLITS))
    classes = int(getattr(model, "num_classes", 0))
    if classes:
        names = class_names(split, num_classes=classes, label_names=label_names, checkpoint=checkpoint)
    else:  # without a classifier any images will do
        names = split.classes
    number_classes(split, names)
    samples, needed = split.images.reader.samples, data.batches * data.batch_size
    if len(samples) < needed:
        raise PlanError(
            f"data: found {len(samples)} images in {split.root}, expected the {needed} of {data.batches} batches of "
            f"{data.batch_size}; lower data.batches or data.batch_size, or add images"
        )
    number = split.images.target_transform
    # a stride that meets the classes of a sorted listing in turn, batch by batch
    chosen = [samples[i * len(samples) // needed] for i in range(needed)]
    ordered = [chosen[i] for start in range(data.batches) for i in range(start, needed, data.batches)]
    config = resolve_data_config({"input_size": input_size(model)}, model=model)
    return Calibration(
        samples=tuple((Path(file), number(label)) for file, label in ordered),
        batch_size=data.batch_size,
        transform=create_transform(**config, is_training=False),
        mode="L" if config["input_size"][0] == 1 else "RGB",
    )
