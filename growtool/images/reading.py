"""Reading one image of a dataset."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

from PIL import Image

UNREADABLE = (  # what image decoders raise
    OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


def read_image(images: Any, index: int) -> tuple[Any, int]:
    """The decoded image before any transform, and its class number.

    Args:
        images: a dataset of timm or torchvision.
        index: which image.

    Raises:
        OSError and the others of `UNREADABLE`: it cannot be read.
    """
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
