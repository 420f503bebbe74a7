"""What Pillow can read: modes, suffixes and formats of images, and the reason why it cannot read one."""

from __future__ import annotations

import re
from functools import cache

from PIL import Image

from growtool.errors import PlanError

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")  # formats that Pillow identifies but does not decode


class UnreadableImage(Exception):
    """Raised for an image that cannot be read; the text says which one, and why."""


def mode_of(channels: int, checkpoint: str) -> str:
    """Return the mode of Pillow in which images have so many channels.

    Raises:
        PlanError: there is none; the message names the `checkpoint`.
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
    """Return the suffixes of files that Pillow reads, in lower case, each with its dot."""
    endings = Image.registered_extensions()
    return frozenset(ending for ending, name in endings.items() if name in Image.OPEN and name not in _NOT_DECODED)


@cache
def marked_formats() -> tuple[str, ...]:
    """Return the formats that Pillow recognises by the first bytes of a file, whatever its suffix."""
    Image.init()  # loads all plugins, which fills Image.OPEN: format -> (opener, check of the first bytes or None)
    return tuple(
        name for name, (_, accepts) in sorted(Image.OPEN.items()) if accepts is not None and name not in _NOT_DECODED
    )


def reason(error: BaseException) -> str:
    """Return the message of a decoder without objects such as `<_io.BytesIO object at 0x7f...>`, which vary."""
    return re.sub(r"\s*<.*>", "", str(error)) or type(error).__name__
