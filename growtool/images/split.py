"""A split of labelled images: finding it on disk, listing its images, and reading them."""

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
_TRIED = 10  # images from the first on, of which one has to be readable


@dataclass(frozen=True, slots=True)
class Split:
    """A split of labelled images, such as those to train on.

    Attributes:
        root: the folder or tar file that holds the folders of the classes, or the place of other data, for messages.
        images: a dataset of timm or torchvision; its items are pairs of an image and a label.
        classes: names of the classes by label; empty if the data has none.
        mode: mode of Pillow in which images are read.
        number: maps a label to the number of a class of the model; raises PlanError if there is none.
        is_stream: whether the images can only be read in an order of their own.
        left_out: words on the files that are not read; "" if there are none.
        remarks: sentences that the user should read.
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
        """Return the name of an image for messages: its path, or its name within the split after `root`."""
        try:
            name = str(self.images.filename(index, absolute=True) or f"image {index}")
        except Exception:  # datasets without file names may raise anything
            name = f"image {index}"
        name = name if Path(name).exists() else f"{self.root}: {name}"
        return name.encode(errors="backslashreplace").decode()  # file names need not be Unicode

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Return an image, decoded and without any transform, and the number of its class.

        Raises:
            UnreadableImage: the image cannot be read.
            PlanError: its label is not a class of the model.
        """
        try:
            image, label = self._read(index)
        except MemoryError:
            raise
        except Exception as error:  # decoders and readers may raise anything
            raise UnreadableImage(f"{self.name_of(index)}: {reason(error)}") from error
        return image, self.number(label)

    def _read(self, index: int) -> tuple[Image.Image, Any]:
        # A dataset of torchvision has no reader: its own `__getitem__` reads the image, and would apply the transform.
        if not hasattr(self.images, "reader"):
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
    """A reader as timm's `ImageDataset` takes it, for the images of a `Listing`.

    Args:
        samples: path, place and class number of each image.
    """

    def __init__(self, files: FolderFiles | TarFiles, samples: Sequence[tuple[str, Any, int]]) -> None:
        self.files, self.samples = files, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        _, place, label = self.samples[index]
        return self.files.open(place), label

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Return the path of an image below the root; its last part alone, or the whole path of a file in a folder."""
        path, place, _ = self.samples[index]
        if basename:
            return path.rpartition("/")[2]
        return place if absolute and isinstance(place, str) else path


def find_images(folder: Path, names: Sequence[str], *, said: str = "--data") -> Path:
    """Return the split in `folder`, see `find_split`; `folder` itself if it has none, as it may hold the classes.

    Raises:
        PlanError: `folder` does not exist.
    """
    return folder if folder.is_dir() and _split_in(folder, names) is None else find_split(folder, names, said=said)


def find_split(folder: Path, names: Sequence[str], *, said: str = "--data") -> Path:
    """Return the split in `folder`: the folder or tar file with the first of these names that exists.

    Args:
        folder: the folder that the user gave.
        names: possible names of the split, without the suffixes of tar files.
        said: the option that gave it, for messages.

    Raises:
        PlanError: `folder` does not exist, or has no such split.
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
    """List the images below `root`. Only files without the suffix of an image are opened, to see whether they are one.

    Args:
        root: a folder with a subfolder for each class, or a tar file of such folders.
        mode: mode of Pillow in which the images will be read.

    Raises:
        PlanError: there is no image, an image is not in the folder of a class, or the tar file cannot be read.
    """
    from timm.data import ImageDataset

    files: Any = FolderFiles(root) if root.is_dir() else TarFiles(root)
    # `train.tar` may hold `CLASS/*`, `train/CLASS/*` or `imagenet/train/CLASS/*`.
    wrappers = () if root.is_dir() else (root.name.partition(".")[0], *TRAIN_SPLITS, *EVAL_SPLITS)
    listing = list_images(files, files.open, where=root, wrappers=wrappers)
    left_out = told_left_out(listing.left_out)
    remarks = [f"{root}: {left_out}"] if left_out else []
    if listing.deeper:
        remarks.append(
            f"{root}: images of deeper folders ({format_names(listing.deeper)}) are of the class of the first folder"
        )
    images = ImageDataset(str(root), reader=ListedImages(files, listing.samples), input_img_mode=mode)
    return Split(root, images, listing.classes, mode, left_out=left_out, remarks=tuple(remarks))


def require_readable(split: Split) -> None:
    """Check that one of the first images can be read, to find data that is no images before training begins.

    Raises:
        PlanError: none of them can be read, or the label of one is not a class of the model.
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
