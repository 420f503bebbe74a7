"""Which files are images, and which class each is of.

The class of an image is the first folder on its way; deeper folders are part of it. Files and classes have one order
everywhere: the natural one (`2` before `10`, `a` beside `A`), and by their characters where that leaves a choice.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Generic, TypeVar

from PIL import Image

from growtool.errors import PlanError, format_names
from growtool.images.reading import image_endings, marked_formats

Place = TypeVar("Place")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class File(Generic[Place]):
    """A file that may be an image.

    Attributes:
        path: folders and name below the root, with `/` between them.
        place: where its bytes are; None for what holds none, such as a link to nothing.
        hidden: whether its name, or that of a folder on its way, begins with a dot.
    """

    path: str
    place: Place | None

    @property
    def hidden(self) -> bool:
        return any(part.startswith(".") for part in self.path.split("/"))


@dataclass(frozen=True, slots=True)
class Listing(Generic[Place]):
    """The images of a folder or archive, and what else lies there.

    Attributes:
        samples: path, place and class number of each image, in order.
        classes: their names in order, in the composed form of Unicode (NFC).
        left_out: paths of the files that are no images.
        deeper: folders within the folders of classes that hold images.
    """

    samples: tuple[tuple[str, Place, int], ...]
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    deeper: tuple[str, ...]


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort by: as timm sorts names, and by their characters where these are equal."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def composed(name: str) -> str:
    """A name in one spelling: file systems keep accents as part of a letter (NFC) or beside it (NFD)."""
    return unicodedata.normalize("NFC", name)


def list_images(
    files: Iterable[File[Place]], opened: Callable[[Place], BinaryIO], *, where: object, wrappers: Sequence[str] = ()
) -> Listing[Place]:
    """Sort files into images, with their classes, and what is left out.

    Args:
        files: all below a folder or in an archive.
        opened: opens one; asked for those alone whose endings do not tell that they are images.
        where: what messages call the folder or archive.
        wrappers: folders that may stand around those of the classes.

    Raises:
        PlanError: no image, images outside any class's folder, or a class whose name is no text.
    """
    images, left_out = [], []
    for file in files:
        if file.place is not None and not file.hidden and _is_image(file.path, file.place, opened):
            images.append((file.path, file.place))
        else:
            left_out.append(file.path)
    left_out.sort(key=natural_order)
    if not images:
        raise PlanError(f"{where}: found no images in it{told_left_out(left_out, before='; ')}; {LAYOUT}")
    images.sort(key=lambda image: natural_order(image[0]))
    depth = _depth([path for path, _ in images], wrappers)
    ways = [path.split("/")[depth:-1] for path, _ in images]
    _require_classes(where, ways)
    folders = [composed(way[0]) for way in ways]
    classes = tuple(sorted(set(folders), key=natural_order))
    number = {name: n for n, name in enumerate(classes)}
    return Listing(
        samples=tuple((*image, number[name]) for image, name in zip(images, folders, strict=True)),
        classes=classes,
        left_out=tuple(left_out),
        deeper=tuple(dict.fromkeys("/".join(way) for way in ways if len(way) > 1)),
    )


def told_left_out(paths: Sequence[str], *, before: str = "") -> str:
    """How many files are left out, of which kinds, and the first of them; "" with none."""
    if not paths:
        return ""
    kinds = Counter(_kind(path) for path in paths)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    more = ", ..." if len(kinds) > _SHOWN else ""
    what = "1 file that is no image" if len(paths) == 1 else f"{len(paths):,} files that are no images"
    return f"{before}left out {what} Pillow reads ({counted}{more}): {format_names(paths, _SHOWN)}"


LAYOUT = "lay the images out as DATA/train/CLASS/*.jpg and DATA/validation/CLASS/*.jpg"


def _kind(path: str) -> str:
    name = PurePosixPath(path)
    return "hidden" if any(part.startswith(".") for part in name.parts) else name.suffix.lower() or "without ending"


def _is_image(path: str, place: Place, opened: Callable[[Place], BinaryIO]) -> bool:
    if PurePosixPath(path).suffix.lower() in image_endings():
        return True
    try:
        with opened(place) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of images with many pixels, which is none of the question
            Image.open(file, formats=marked_formats()).close()
    except Exception:  # whatever the openers of some thirty formats trip over
        return False
    return True


def _depth(paths: Sequence[str], wrappers: Sequence[str]) -> int:
    """How many folders stand around those of the classes: all down to a wrapper that every image lies in."""
    if not wrappers:
        return 0
    ways = [path.split("/")[:-1] for path in paths]
    shared = min(ways, key=len)[:-1]  # something has to be left for the class
    for depth, names in enumerate(zip(*ways, strict=False)):
        if len(set(names)) > 1:
            shared = shared[:depth]
            break
    return next((depth for depth in range(len(shared), 0, -1) if shared[depth - 1] in wrappers), 0)


def _require_classes(where: object, ways: Sequence[Sequence[str]]) -> None:
    if not all(ways):
        raise PlanError(f"{where}: found images directly in it, expected one subfolder of images per class; move them")
    for name in {way[0] for way in ways}:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise PlanError(
                f"{where}: found the class folder {name.encode(errors='surrogateescape')!r}, expected a name in "
                "UTF-8; rename it"
            ) from error
