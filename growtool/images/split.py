"""Image folders and tar files: finding a split and listing what is in it."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.images.reading import UNREADABLE, read_image, reason

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("validation", "val", "valid", "test")
_LAYOUT = "DATA/train/CLASS/*.jpg and DATA/validation/CLASS/*.jpg"
_TRIED = 10  # images of which one has to be readable


@dataclass(frozen=True, slots=True)
class Split:
    """One split of an image folder.

    Attributes:
        root: the folder whose subfolders are the classes, or the tar file that holds them.
        images: timm's dataset; each item is (PIL image or tensor, class number).
        classes: names of the classes found, in timm's natural order; empty where the data does not tell.
        is_stream: whether the images can only be read in their own order.
    """

    root: Path
    images: Any
    classes: tuple[str, ...]
    is_stream: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_tar(self) -> bool:
        """Whether its images share an open file, and so are read one after the other."""
        return hasattr(getattr(self.images, "reader", None), "tar_state")

    def name_of(self, index: int) -> str:
        """What to call an image in messages: its path, or what it is called where the split lies."""
        try:
            name = str(self.images.filename(index, absolute=True))
        except (AttributeError, AssertionError, NotImplementedError):
            name = f"image {index}"
        return name if Path(name).exists() else f"{self.root}: {name}"

    def close(self) -> None:
        """Close the tar files that timm keeps open from the first image on; the next image opens them again.

        Processes that inherit an open file share its position: two that read at once would get each other's bytes.
        """
        reader: Any = getattr(self.images, "reader", None)
        if getattr(reader, "tarfile", None) is not None:
            reader.tarfile.close()
            reader.tarfile = None
        state = getattr(reader, "tar_state", None)
        pending = list(state.values()) if isinstance(state, dict) else [state] if state is not None else []
        while pending:
            archive = pending.pop()
            pending += archive.children.values()
            if archive.tf is not None:
                archive.tf.close()
                archive.tf = None


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
        raise PlanError(f"{said} {folder}: found {found}, expected a folder of images laid out as {_LAYOUT}")
    if split := _split_in(folder, names):
        return split
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise PlanError(
        f"{said} {folder}: no {names[0]} split: found {held}, expected a folder named {' or '.join(names)}; "
        f"lay the images out as {_LAYOUT}"
    )


def _split_in(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        if (path := folder / name).is_dir() or (path := folder / f"{name}.tar").is_file():
            return path
    return None


def open_split(root: Path, *, channels: int = 3) -> Split:
    """List the images below `root`; none is opened.

    Args:
        root: a folder with one subfolder per class, or a tar file of such folders.
        channels: 1 reads the images as greyscale, everything else as RGB.

    Raises:
        PlanError: no image, or images that lie outside any class's folder.
    """
    from timm.data import create_dataset

    try:
        images = create_dataset("", root=str(root), search_split=False, input_img_mode="L" if channels == 1 else "RGB")
    except (RuntimeError, ValueError, tarfile.TarError) as error:  # of a tar without images the second
        found = "no images in it" if isinstance(error, ValueError) else str(error)
        raise PlanError(f"{root}: {found}; lay the images out as {_LAYOUT}") from error
    classes = tuple(getattr(images.reader, "class_to_idx", None) or images.reader.class_name_to_idx)
    if "" in classes:
        raise PlanError(f"{root}: found images directly in it, expected one subfolder of images per class; move them")
    return Split(root, images, classes)


def require_readable(split: Split) -> None:
    """Decode an image, so that a folder of something else than images is found out before training.

    Raises:
        PlanError: none of the first few can be decoded.
    """
    if split.is_stream:
        return
    problems = []
    try:
        for index in range(min(len(split), _TRIED)):
            try:
                read_image(split.images, index)
                return
            except UNREADABLE as error:
                problems.append(f"{split.name_of(index)}: cannot be read as an image ({reason(error)})")
    finally:
        split.close()
    if problems:
        raise PlanError(f"{problems[0]}, nor can the next {len(problems) - 1}; restore or remove what is no image")
