"""Reading images one by one: augmented with random numbers of their own, and never fatal.

An image that cannot be read is named. In training the next one takes its place, so that batches keep their size; in
evaluation it counts as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from growtool.errors import PlanError
from growtool.finetune.data.seeding import seed_generators
from growtool.images import Split, UnreadableImage

SampleKey = tuple[int, int]
"""Index of an image, and the seed of its augmentation; the index PADDING asks for an image that counts as nothing."""
PADDING = -1
NOT_COUNTED = -1  # class number of what evaluation leaves out
IN_A_ROW = 50  # unreadable images one after the other are no accident

Sample = tuple[Any, int, tuple[str, ...]]
"""An image as uint8 [C, H, W], its class number, and the names of images that could not be read for it."""


class SeededImages(Dataset[Sample]):
    """Random access by key.

    Args:
        split: of images that can be read in any order.
        blank: shape [C, H, W] of an image that counts as nothing.
        replace: whether the next image takes the place of an unreadable one.
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
            seed_generators(seed)
            if self.split.images.transform is not None:
                image = self.split.images.transform(image)
            return image, target, tuple(unreadable)
        raise PlanError(
            f"{unreadable[0]}; nor could the {IN_A_ROW - 1} images after it be read, expected images; "
            "restore the data or name another"
        )


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """timm's collation to images uint8 [B, C, H, W] and class numbers [B], and the names of what could not be read."""
    from timm.data.loader import fast_collate

    images, targets = fast_collate([(image, target) for image, target, _ in samples])
    return images, torch.as_tensor(targets), tuple(name for *_, names in samples for name in names)
