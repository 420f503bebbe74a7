"""Reading one image: its mode, and what a decoder says of one that it cannot read."""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

from growtool.errors import PlanError

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow knows these formats and reads no pixel of them


class UnreadableImage(Exception):
    """An image cannot be read; the text says which and why."""


def mode_of(channels: int, checkpoint: str) -> str:
    """The mode of Pillow in which images have this many channels.

    Raises:
        PlanError: there is none; names the `checkpoint`.
    """
    if channels not in _MODES:
        raise PlanError(
            f"{checkpoint}: takes images of {channels} channels, expected 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 "
            "(RGB and alpha), as image files are read with; what needs no image files (grow, inspect, verify on "
            "random inputs) takes such a model, train and evaluate it with a loader of your own"
        )
    return _MODES[channels]


@cache
def image_endings() -> frozenset[str]:
    """Endings of the files that Pillow reads, in lower case, each with its dot."""
    endings = Image.registered_extensions()
    return frozenset(ending for ending, name in endings.items() if name in Image.OPEN and name not in _NOT_DECODED)


@cache
def marked_formats() -> tuple[str, ...]:
    """Formats whose files begin with a mark, so that they are known without an ending."""
    Image.init()
    return tuple(
        name for name, (_, accepts) in sorted(Image.OPEN.items()) if accepts is not None and name not in _NOT_DECODED
    )


def reason(error: BaseException) -> str:
    """What a decoder says of an image, without the address of what it was read from, which differs every time."""
    return re.sub(r"\s*<.*>", "", str(error)) or type(error).__name__
