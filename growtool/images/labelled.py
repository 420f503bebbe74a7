"""Labelled images of a split in batches, in a given order, read by threads of this process.

Axes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from growtool.errors import CheckpointError
from growtool.images.classes import class_names, numbered
from growtool.images.reading import UnreadableImage, mode_of
from growtool.images.split import Split, find_images, open_split


class Batch(NamedTuple):
    """A batch of images with their labels.

    Attributes:
        places: places of the images in their split.
        inputs: the images [N, C, H, W].
        labels: numbers of their classes [N].
    """

    places: Sequence[int]
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images of a split, or a part of them, with the classes of a model.

    Attributes:
        split: the images; its classes are numbered like the logits of the model.
        order: places in the split of the images to read, in this order.
    """

    split: Split
    order: Sequence[int]

    @classmethod
    def of(
        cls,
        folder: Path,
        names: Sequence[str],
        *,
        channels: int,
        num_classes: int,
        label_names: Sequence[str] | None,
        checkpoint: str,
        said: str = "--data",
    ) -> LabelledImages:
        """Return all images of the split in `folder`, or of `folder` itself if it has no split, without reading them.

        Args:
            folder: the folder that the user gave.
            names: possible names of the split.
            channels: channels of the model's input.
            num_classes: number of logits of the model; 0 if it has no classifier, so that any classes will do.
            label_names: names of the classes in the checkpoint; None if it has none.
            checkpoint: name of the checkpoint, for messages.
            said: the option that gave the folder, for messages.

        Raises:
            PlanError: no such folder, no images in it, other classes or another number of channels than the model's.
            CheckpointError: `label_names` do not fit the logits of the model.
        """
        mode = mode_of(channels, checkpoint)
        split = open_split(find_images(folder, names, said=said), mode=mode)
        classes = split.classes
        if num_classes:
            classes = class_names(split, num_classes=num_classes, label_names=label_names, checkpoint=checkpoint)
        return cls(numbered(split, classes, num_classes=num_classes), range(len(split)))

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, transform: Callable[[Any], Tensor], size: int) -> Iterator[Batch]:
        """Yield batches; the last may have fewer images. The images of a batch are decoded in parallel.

        Args:
            transform: makes an input [C, H, W] of a PIL image.

        Raises:
            CheckpointError: an image cannot be read.
        """

        def load(index: int) -> tuple[Tensor, int]:
            try:
                image, label = self.split.read(index)
            except UnreadableImage as error:
                raise CheckpointError(f"{error}: cannot read the image; restore or remove the file") from error
            return transform(image), label

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.order), size):
                part = self.order[start : start + size]
                images, labels = zip(*pool.map(load, part), strict=True)
                yield Batch(part, torch.stack(images), torch.tensor(labels))
