"""One split of labelled images: finding it, and reading from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from growtool.errors import PlanError, format_names
from growtool.images.files import ENDINGS, FolderFiles, TarFiles
from growtool.images.listing import LAYOUT, list_images, told_left_out
from growtool.images.reading import UnreadableImage, reason

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("validation", "val", "valid", "test")
_TRIED = 10  # images of which one has to be readable


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a set of images.

    Attributes:
        root: the folder whose subfolders are the classes, or the tar file that holds them.
        images: a dataset of timm or torchvision, its items pairs of an image and a label.
        classes: names by label; empty where the data does not tell.
        mode: of Pillow, in which images are read.
        number: from a label to the number of the model's class; raises PlanError where there is none.
        is_stream: whether the images can only be read in their own order.
        left_out: what of it is not read, in words; "" where nothing is.
        remarks: what its user should know of it, a sentence each.
    """

    root: Path
    images: Any
    classes: tuple[str, ...]
    mode: str = "RGB"
    number: Callable[[Any], int] = int
    is_stream: bool = False
    left_out: str = ""
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        """What to call an image in messages: its path, or what it is called where the split lies."""
        try:
            name = str(self.images.filename(index, absolute=True) or f"image {index}")
        except Exception:  # whatever a dataset without names trips over
            name = f"image {index}"
        name = name if Path(name).exists() else f"{self.root}: {name}"
        return name.encode(errors="backslashreplace").decode()  # not every name of a file is text

    def read(self, index: int) -> tuple[Image.Image, int]:
        """An image before any transform, all of it decoded, and the number of its class.

        Raises:
            UnreadableImage: it cannot be read.
            PlanError: its label is no class of the model's.
        """
        try:
            image, label = self._read(index)
        except MemoryError:
            raise
        except Exception as error:  # decoders, of whatever format, and readers raise what they trip over
            raise UnreadableImage(f"{self.name_of(index)}: {reason(error)}") from error
        return image, self.number(label)

    def _read(self, index: int) -> tuple[Image.Image, Any]:
        if not hasattr(self.images, "reader"):  # torchvision's; its arrays and files are read by its own __getitem__
            transform, self.images.transform = self.images.transform, None
            try:
                image, label = self.images[index]
            finally:
                self.images.transform = transform
            return image.convert(self.mode), label
        file, label = self.images.reader[index]
        with file, Image.open(file) as opened:
            return opened.convert(self.mode), label


class ListedImages:
    """Images by number, in the way that timm's datasets ask a reader for them.

    Attributes:
        samples: path, place and class number of each.
    """

    def __init__(self, files: FolderFiles | TarFiles, samples: Sequence[tuple[str, Any, int]]) -> None:
        self.files, self.samples = files, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        _, place, label = self.samples[index]
        return self.files.open(place), label

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """The path of an image: below the root, its last part, or the whole one where it is a file of its own."""
        path, place, _ = self.samples[index]
        return path.rpartition("/")[2] if basename else place if absolute and isinstance(place, str) else path


def find_images(folder: Path, names: Sequence[str], *, said: str = "--data") -> Path:
    """The first of `names` in `folder`, see `find_split`, or `folder` itself where it has none: classes may lie in it.

    Raises:
        PlanError: `folder` is not there.
    """
    return folder if folder.is_dir() and _split_in(folder, names) is None else find_split(folder, names, said=said)


def find_split(folder: Path, names: Sequence[str], *, said: str = "--data") -> Path:
    """The first of `names` that is a folder in `folder`, or a tar file there.

    Args:
        folder: what the user named.
        names: what the split may be called.
        said: how the user named it, for messages.

    Raises:
        PlanError: `folder` is not there, or holds none of them.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise PlanError(f"{said} {folder}: found {found}, expected a folder of images; {LAYOUT}")
    if split := _split_in(folder, names):
        return split
    held = format_names(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise PlanError(
        f"{said} {folder}: no {names[0]} split: found {held}, expected a folder named {' or '.join(names)}; {LAYOUT}"
    )


def _split_in(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        if (path := folder / name).is_dir():
            return path
        for ending in ENDINGS:
            if (path := folder / f"{name}{ending}").is_file():
                return path
    return None


def open_split(root: Path, *, mode: str = "RGB") -> Split:
    """List the images below `root`; opened are only files of which the ending does not tell whether they are images.

    Args:
        root: a folder with one subfolder per class, or a tar file of such folders.
        mode: of Pillow, in which they will be read.

    Raises:
        PlanError: no image, images that lie outside any class's folder, or a tar file that cannot be read.
    """
    from timm.data import ImageDataset

    if root.is_dir():
        folder = FolderFiles(root)
        found: Any = list_images(folder, folder.open, where=root)
        files: FolderFiles | TarFiles = folder
    else:
        archive = TarFiles(root)
        around = (root.name.partition(".")[0], *TRAIN_SPLITS, *EVAL_SPLITS)
        found, files = list_images(archive, archive.open, where=root, wrappers=around), archive
    left_out = told_left_out(found.left_out)
    remarks = [f"{root}: {left_out}"] if left_out else []
    if found.deeper:
        remarks.append(
            f"{root}: images of deeper folders ({format_names(found.deeper)}) are of the class of the first folder"
        )
    images = ImageDataset(str(root), reader=ListedImages(files, found.samples), input_img_mode=mode)
    return Split(root, images, found.classes, mode, left_out=left_out, remarks=tuple(remarks))


def require_readable(split: Split) -> None:
    """Decode an image, so that a folder of something else than images is found out before training.

    Raises:
        PlanError: none of the first few can be decoded, or the label of one is no class of the model's.
    """
    if split.is_stream:
        return
    problems = []
    for index in range(min(len(split), _TRIED)):
        try:
            split.read(index)
            return
        except UnreadableImage as error:
            problems.append(str(error))
    if problems:
        raise PlanError(
            f"{problems[0]}: no image that can be read, nor can the next {len(problems) - 1}; restore or remove what "
            "is no image"
        )
