"""Reading images one by one: augmented with random numbers of their own, and never fatal.

An image that cannot be read is named. In training the next one takes its place, so that batches keep their size; in
evaluation it counts as nothing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from growtool.errors import PlanError
from growtool.finetune.seeding import seed_generators

SampleKey = tuple[int, int]
"""Index of an image, and the seed of its augmentation; the index PADDING asks for an image that counts as nothing."""
PADDING = -1
NOT_COUNTED = -1  # class number of what evaluation leaves out
IN_A_ROW = 50  # unreadable images one after the other are no accident
UNREADABLE = (  # what image decoders raise
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip

Sample = tuple[Any, int, tuple[str, ...]]
"""An image as uint8 [C, H, W], its class number, and the names of images that could not be read for it."""


class SeededImages(Dataset[Sample]):
    """Random access by key.

    Args:
        images: a dataset of timm or torchvision.
        root: what to call it in messages.
        blank: shape [C, H, W] of an image that counts as nothing.
        replace: whether the next image takes the place of an unreadable one.
    """

    def __init__(self, images: Any, root: Path, blank: tuple[int, int, int], *, replace: bool) -> None:
        self.images, self.root, self.blank, self.replace = images, root, blank, replace

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> Sample:
        index, seed = key
        if index == PADDING:
            return torch.zeros(self.blank, dtype=torch.uint8), NOT_COUNTED, ()
        unreadable: list[str] = []
        while len(unreadable) < IN_A_ROW:
            try:
                image, target = read_image(self.images, index)
            except UNREADABLE as error:
                unreadable.append(f"{self._name(index)}: {reason(error)}")
                if not self.replace:
                    return torch.zeros(self.blank, dtype=torch.uint8), NOT_COUNTED, tuple(unreadable)
                index = (index + 1) % len(self.images)
                continue
            seed_generators(seed)
            if self.images.transform is not None:
                image = self.images.transform(image)
            return image, target, tuple(unreadable)
        raise PlanError(
            f"{unreadable[0]}; nor could the {IN_A_ROW - 1} images after it be read, expected images; "
            "restore the data or name another"
        )

    def _name(self, index: int) -> str:
        name = file_name(self.images, index)
        return name if Path(name).exists() else f"{self.root}: {name}"


def read_image(images: Any, index: int) -> tuple[Any, int]:
    """The decoded image before any transform, and its class number.

    Raises:
        OSError and other errors of decoders: it cannot be read.
    """
    from PIL import Image

    if not hasattr(images, "reader"):  # torchvision's; its arrays and files are read by its own __getitem__
        transform, images.transform = images.transform, None
        try:
            image, target = images[index]
        finally:
            images.transform = transform
        return image.convert("RGB"), int(target)
    file, target = images.reader[index]
    with file, Image.open(file) as opened:
        image = opened.convert(images.input_img_mode)  # decodes all of it
    return image, int(images.target_transform(target) if images.target_transform else target)


def reason(error: BaseException) -> str:
    """What a decoder says of an image, without the address of what it was read from, which differs every time."""
    return re.sub(r"\s*<.*>", "", str(error)) or type(error).__name__


def file_name(images: Any, index: int) -> str:
    """What to call an image in messages."""
    try:
        return str(images.filename(index, absolute=True))
    except (AttributeError, AssertionError, NotImplementedError):
        return f"image {index}"


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """timm's collation to images uint8 [B, C, H, W] and class numbers [B], and the names of what could not be read."""
    from timm.data.loader import fast_collate

    images, targets = fast_collate([(image, target) for image, target, _ in samples])
    return images, torch.as_tensor(targets), tuple(name for *_, names in samples for name in names)
