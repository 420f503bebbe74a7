"""Image folders: finding the splits and holding their classes against the checkpoint's.

A class's number is its place in the checkpoint's `label_names` where it has them, and otherwise its place among the
folder names in timm's natural order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.finetune.reading import file_name, read_image

TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("validation", "val", "valid", "test")
_LAYOUT = "DATA/train/CLASS/*.jpg and DATA/validation/CLASS/*.jpg"
_TRIED = 10  # images of which one has to be readable
_SHOWN = 5  # class names a message lists before it only counts


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


def find_split(folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that is a folder in `folder`, or a tar file there.

    Raises:
        PlanError: `folder` is not there, or holds none of them.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise PlanError(f"--data {folder}: found {found}, expected a folder of images laid out as {_LAYOUT}")
    for name in names:
        for path in (folder / name, folder / f"{name}.tar"):
            if path.is_dir() or (path.suffix == ".tar" and path.is_file()):
                return path
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise PlanError(
        f"--data {folder}: no {names[0]} split: found {held}, expected a folder named {' or '.join(names)}; "
        f"lay the images out as {_LAYOUT}"
    )


def open_split(root: Path, *, channels: int = 3) -> Split:
    """List the images below `root`; none is opened.

    Args:
        root: a folder with one subfolder per class, a tar file of such folders, or a folder of one tar file per class.
        channels: 1 reads the images as greyscale, everything else as RGB.

    Raises:
        PlanError: no image, or images that lie outside any class's folder.
    """
    from timm.data import create_dataset

    try:
        images = create_dataset("", root=str(root), search_split=False, input_img_mode="L" if channels == 1 else "RGB")
    except RuntimeError as error:
        raise PlanError(f"{root}: {error}; lay the images out as {_LAYOUT}") from error
    classes = tuple(getattr(images.reader, "class_to_idx", None) or images.reader.class_name_to_idx)
    if "" in classes:
        raise PlanError(f"{root}: found images directly in it, expected one subfolder of images per class; move them")
    return Split(root, images, classes)


def class_names(
    split: Split, *, num_classes: int, label_names: Sequence[str] | None, checkpoint: str
) -> tuple[str, ...]:
    """The classes in the order of the model's logits.

    Raises:
        PlanError: the folders are not the classes the checkpoint was trained on.
    """
    if label_names is not None:
        if split.classes:
            _require_same(split, label_names, checkpoint)
        return tuple(label_names)
    if split.classes and len(split.classes) != num_classes:
        raise PlanError(
            f"{split.root}: found {len(split.classes)} class folders ({_some(split.classes)}), expected {num_classes}, "
            f"the number of classes of {checkpoint}; use the data set it was trained on, or train a fresh head with "
            f"--num-classes {len(split.classes)}"
        )
    return split.classes


def number_classes(split: Split, names: Sequence[str]) -> None:
    """From now on the items of `split.images` carry each class's place in `names`.

    Raises:
        PlanError: the split has a class that is not among them.
    """
    if not split.classes:
        return
    unknown = [name for name in split.classes if name not in set(names)]
    if unknown:
        raise PlanError(
            f"{split.root}: found classes {_some(unknown)}, expected only those the model trains on ({_some(names)}); "
            "remove or rename these folders"
        )
    place = {name: number for number, name in enumerate(names)}
    split.images.target_transform = [place[name] for name in split.classes].__getitem__


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
            except OSError as error:
                problems.append(f"{file_name(split.images, index)}: cannot be read as an image ({error})")
    finally:
        _close_archives(getattr(split.images, "reader", None))
    if problems:
        raise PlanError(f"{problems[0]}, nor can the next {len(problems) - 1}; restore or remove what is no image")


def _close_archives(reader: Any) -> None:
    """Close the tar files that timm keeps open from the first image on.

    Processes that inherit an open file share its position: two that read at once would get each other's bytes.
    """
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


def _require_same(split: Split, label_names: Sequence[str], checkpoint: str) -> None:
    missing = [name for name in label_names if name not in set(split.classes)]
    extra = [name for name in split.classes if name not in set(label_names)]
    if missing or extra:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"not among them {_some(extra)}"] if extra else []
        raise PlanError(
            f"{split.root}: the class folders are not the {len(label_names)} classes of {checkpoint} (its label_names)"
            f": {'; '.join(parts)}; rename the folders to match, use the data set the checkpoint was trained on, or "
            f"train a fresh head with --num-classes {len(split.classes)}"
        )


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
