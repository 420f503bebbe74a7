"""The images among the files of a folder or archive, and the class of each.

The class of an image is the topmost folder on its path; deeper folders belong to it. Files and classes have the same
order everywhere: the natural one (`2` before `10`, `a` beside `A`), and by their characters if that leaves a choice.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import BinaryIO, Generic, TypeVar

from PIL import Image

from growtool.errors import PlanError, format_names
from growtool.images.reading import image_endings, marked_formats

Place = TypeVar("Place")
"""Where the bytes of a file are: its path, or a span of an archive."""
_SHOWN = 5  # kinds and names of files in a message


@dataclass(frozen=True, slots=True)
class File(Generic[Place]):
    """A file that may be an image.

    Attributes:
        path: its path below the root, with `/` between the parts.
        place: where its bytes are; None if it has none to read, such as a broken link or a pipe.
    """

    path: str
    place: Place | None


@dataclass(frozen=True, slots=True)
class Listing(Generic[Place]):
    """The images of a folder or archive, and its other files.

    Attributes:
        samples: path, place and class number of each image, in natural order of the paths.
        classes: names of the classes in natural order, in the composed form of Unicode (NFC).
        left_out: paths of the files that are not images.
        deeper: folders with images inside the folders of classes, such as `CLASS/FOLDER`.
    """

    samples: tuple[tuple[str, Place, int], ...]
    classes: tuple[str, ...]
    left_out: tuple[str, ...]
    deeper: tuple[str, ...]


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key for names: in the order of timm's `natural_key`, and by characters for names equal under it."""
    parts = re.split(r"([0-9]+)", name.lower())  # numbers at odd places
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def composed(name: str) -> str:
    """Return a name in the composed form of Unicode (NFC), since some file systems store accents as NFD."""
    return unicodedata.normalize("NFC", name)


def list_images(
    files: Iterable[File[Place]], opened: Callable[[Place], BinaryIO], *, where: object, wrappers: Sequence[str] = ()
) -> Listing[Place]:
    """Find the images among files, and their classes.

    Args:
        files: all files below a folder or in an archive.
        opened: opens a file; called only for files whose suffix is not that of an image.
        where: the folder or archive, for messages.
        wrappers: names of folders that may enclose the folders of classes, such as `train`.

    Raises:
        PlanError: there is no image, an image is not in a folder of a class, or the name of a class is not Unicode.
    """
    images, left_out = [], []
    for file in files:
        if file.place is not None and not _is_hidden(file.path) and _is_image(file.path, file.place, opened):
            images.append((file.path, file.place))
        else:
            left_out.append(file.path)
    left_out.sort(key=natural_order)
    if not images:
        raise PlanError(f"{where}: found no images in it{told_left_out(left_out, before='; ')}; {LAYOUT}")
    images.sort(key=lambda image: natural_order(image[0]))
    folders = [path.split("/")[:-1] for path, _ in images]
    if wrappers:
        depth = _wrapper_depth(folders, wrappers)
        folders = [parts[depth:] for parts in folders]
    _require_classes(where, folders)
    names = [composed(parts[0]) for parts in folders]
    classes = tuple(sorted(set(names), key=natural_order))
    number = {name: n for n, name in enumerate(classes)}
    return Listing(
        samples=tuple((*image, number[name]) for image, name in zip(images, names, strict=True)),
        classes=classes,
        left_out=tuple(left_out),
        deeper=tuple(dict.fromkeys("/".join(parts) for parts in folders if len(parts) > 1)),
    )


def told_left_out(paths: Sequence[str], *, before: str = "") -> str:
    """Return words on the files that are left out: how many, of which kinds, and the first of them; "" if none are."""
    if not paths:
        return ""
    kinds = Counter(_kind(path) for path in paths)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(_SHOWN))
    more = ", ..." if len(kinds) > _SHOWN else ""
    what = "1 file that is no image" if len(paths) == 1 else f"{len(paths):,} files that are no images"
    return f"{before}left out {what} Pillow reads ({counted}{more}): {format_names(paths, _SHOWN)}"


LAYOUT = "lay the images out as DATA/train/CLASS/*.jpg and DATA/validation/CLASS/*.jpg"


def _kind(path: str) -> str:
    return "hidden" if _is_hidden(path) else PurePosixPath(path).suffix.lower() or "without ending"


def _is_hidden(path: str) -> bool:
    """Return whether the name of a file, or that of a folder on its path, begins with a dot."""
    return any(part.startswith(".") for part in path.split("/"))


def _is_image(path: str, place: Place, opened: Callable[[Place], BinaryIO]) -> bool:
    if PurePosixPath(path).suffix.lower() in image_endings():
        return True
    try:
        with opened(place) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of images with very many pixels, which are images
            Image.open(file, formats=marked_formats()).close()
    except Exception:  # the openers of some thirty formats may raise anything
        return False
    return True


def _wrapper_depth(folders: Sequence[Sequence[str]], wrappers: Sequence[str]) -> int:
    """Return how many folders enclose those of the classes: all down to the deepest wrapper that every image is in."""
    shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*folders, strict=False))]
    shared = shared[: min(map(len, folders)) - 1]  # each image must keep a folder for its class
    return next((depth for depth in range(len(shared), 0, -1) if shared[depth - 1] in wrappers), 0)


def _require_classes(where: object, folders: Sequence[Sequence[str]]) -> None:
    """Check that each image is in a folder, whose name is Unicode."""
    if not all(folders):
        raise PlanError(f"{where}: found images directly in it, expected one subfolder of images per class; move them")
    for name in {parts[0] for parts in folders}:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise PlanError(
                f"{where}: found the class folder {name.encode(errors='surrogateescape')!r}, expected a name in "
                "UTF-8; rename it"
            ) from error
