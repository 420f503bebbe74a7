"""Labelled images of a split in batches, in an order of one's own, without workers.

Axes: N images of a batch; C channels; H, W height and width.
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
    """Images of a batch with their labels.

    Attributes:
        places: of the images in their split.
        inputs: the images [N, C, H, W].
        labels: numbers of their classes [N].
    """

    places: Sequence[int]
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """A part of a split whose labels are those of a model.

    Attributes:
        split: where they lie, its classes numbered as the logits of a model are.
        order: their places in the split, in the order in which they are seen.
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
        """All images of the split in `folder` by one of `names`, or of `folder` itself; none is opened.

        Args:
            folder: what the user named.
            names: what the split may be called.
            channels: of the model's input.
            num_classes: of the model's; for one without a classifier, 0, any classes will do.
            label_names: the checkpoint's classes where it tells them.
            checkpoint: its name, for messages.
            said: how the user named the folder, for messages.

        Raises:
            PlanError: no such folder, no images in it, other classes than the model's, or channels that no image has.
            CheckpointError: its label names are not the classes of the model.
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
        """Batches of `size`, of which the last may have fewer; the images of one are decoded in parallel.

        Args:
            transform: a PIL image to an input [C, H, W].
            size: images of a batch.

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
