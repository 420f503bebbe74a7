"""Reading images one by one, each augmented with random numbers of its own.

An image that cannot be read is no error. It is named; in training the next one takes its place, so that batches keep
their size, and in evaluation it is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.data.loader import fast_collate
from torch import Tensor
from torch.utils.data import Dataset

from growtool.errors import PlanError
from growtool.finetune.data.seeding import seed_generators
from growtool.images import Split, UnreadableImage

SampleKey = tuple[int, int]
"""Index of an image, and the seed of its augmentation; the index PADDING asks for a blank image that is not counted."""
PADDING = -1
NOT_COUNTED = -1  # class number of images that evaluation leaves out
IN_A_ROW = 50  # unreadable images one after the other; so many are no accident, and reading fails

Sample = tuple[Any, int, tuple[str, ...]]
"""An image as uint8 [C, H, W], its class number, and the names of unreadable images whose place it takes."""


class SeededImages(Dataset[Sample]):
    """The images of a split by key, each transformed with the seed in its key.

    Args:
        split: of images that can be read in any order.
        blank: shape (C, H, W) of images that are not counted.
        replace: whether the next image takes the place of an unreadable one; else that one is blank and not counted.
    """

    def __init__(self, split: Split, blank: tuple[int, int, int], *, replace: bool) -> None:
        self.split, self.blank, self.replace = split, blank, replace

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: SampleKey) -> Sample:
        index, seed = key
        if index == PADDING:
            return torch.zeros(self.blank, dtype=torch.uint8), NOT_COUNTED, ()
        unreadable: list[str] = []
        while len(unreadable) < IN_A_ROW:
            try:
                image, target = self.split.read(index)
            except UnreadableImage as error:
                unreadable.append(str(error))
                if not self.replace:
                    return torch.zeros(self.blank, dtype=torch.uint8), NOT_COUNTED, tuple(unreadable)
                index = (index + 1) % len(self.split)
                continue
            seed_generators(seed)  # right before the transforms, which draw from the global generators
            return self.split.images.transform(image), target, tuple(unreadable)
        raise PlanError(
            f"{unreadable[0]}; nor could the {IN_A_ROW - 1} images after it be read, expected images; "
            "restore the data or name another"
        )


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Collate samples to images uint8 [B, C, H, W], class numbers [B], and the names of unreadable images."""
    images, targets = fast_collate([(image, target) for image, target, _ in samples])
    return images, torch.as_tensor(targets), tuple(name for *_, names in samples for name in names)
