"""Opening the images of a run: folders, tar files, parquet, or any dataset string of timm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from growtool.checkpoint import ModelSpec
from growtool.errors import PlanError, format_names
from growtool.finetune.config import RunConfig
from growtool.finetune.data.fields import field_problems, require_labels
from growtool.finetune.update.model import count_classes
from growtool.images import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    Split,
    class_names,
    find_split,
    mode_of,
    numbered,
    open_split,
)
from growtool.library.timm import input_size

_CANONICAL = {"training": "train", "val": "validation", "valid": "validation"}  # names of splits in `datasets`
_READERS = ("torch", "hfds", "hfids", "tfds", "wds")  # timm's, by the prefix of a dataset string


def require_source(config: RunConfig, *, training: bool) -> None:
    """Check that the split to train or to evaluate on is there, as far as that takes no reading.

    Raises:
        PlanError: there is no such folder, split or reader, or `data_kwargs` for data without a reader.
    """
    folder, dataset, names = _place(config, training=training)
    if dataset and _reader(dataset) not in _READERS:
        raise PlanError(
            f"--dataset {dataset}: found no reader of this name, expected READER/NAME with one of "
            f"{', '.join(_READERS)}; folders of images and tar files need none, drop it for them"
        )
    if dataset or _parquet(folder, names):
        return
    find_split(folder, names)
    if config.data_kwargs and (training or config.val_data is None):
        raise PlanError(
            f"--set data_kwargs: found {', '.join(config.data_kwargs)}, but folders and tar files are read without "
            "options; drop them, or name a reader with --dataset"
        )


def open_source(config: RunConfig, *, training: bool, channels: int, checkpoint: str) -> Split:
    """Open the split to train on, or the one to evaluate on, without reading an image.

    Args:
        channels: of the model's input.
        checkpoint: name of the model's checkpoint, for messages.

    Raises:
        PlanError: the split is not there, the package that reads it is not installed, it lacks the fields that are
            read, or no image has so many channels.
    """
    require_source(config, training=training)
    mode = mode_of(channels, checkpoint)
    folder, dataset, names = _place(config, training=training)
    if dataset:
        return _named(config, dataset, str(folder), names[0], folder, training=training, mode=mode)
    if split := _parquet(folder, names):
        # Absolute, as `datasets` would take the relative names of some folders (`parquet`, `csv`) for file formats.
        name, place = f"hfds/{folder.resolve()}", folder / split
        return _named(config, name, None, split, place, training=training, mode=mode)
    return open_split(find_split(folder, names), mode=mode)


def open_splits(
    config: RunConfig, spec: ModelSpec, model: nn.Module, name: str
) -> tuple[Split, Split, tuple[str, ...]]:
    """Open the splits to train and to evaluate on, with labels translated to the numbers of the model's logits.

    Args:
        spec: of the model that will be trained; may hold the names of its classes.
        model: the model, with or without weights.
        name: of the checkpoint, for messages.

    Returns:
        The split for training, the split for evaluation, and the names of the classes in the order of the logits,
        empty where nothing tells them.

    Raises:
        PlanError: the images are not there, or are of other classes.
        CheckpointError: the names of the model's classes do not match its logits.
    """
    channels, logits = input_size(model)[0], count_classes(model)
    train, held_out = (
        open_source(config, training=training, channels=channels, checkpoint=name) for training in (True, False)
    )
    naming = held_out if held_out.classes and not train.classes else train  # a stream need not know names
    classes = class_names(naming, num_classes=logits, label_names=spec.label_names, checkpoint=name)
    for split in (train, held_out):
        require_labels(split, logits)
    return numbered(train, classes, num_classes=logits), numbered(held_out, classes, num_classes=logits), classes


def _place(config: RunConfig, *, training: bool) -> tuple[Path, str, Sequence[str]]:
    """Return the folder of a split, its dataset string ("" unless timm opens it by one), and the names it may have."""
    chosen, usual = (config.train_split, TRAIN_SPLITS) if training else (config.val_split, EVAL_SPLITS)
    names = (chosen,) if chosen else usual
    if training or config.val_data is None:
        return config.data, config.dataset, names
    return config.val_data, "", names


def _parquet(folder: Path, names: Sequence[str]) -> str | None:
    """Return the first of `names` for which there are parquet files, as `datasets` names the split; None without."""
    for name in names:
        if any(folder.glob(f"{name}*.parquet")) or any(folder.glob(f"data/{name}*.parquet")):
            return _CANONICAL.get(name, name)
    return None


def _reader(dataset: str) -> str:
    """Return the timm reader that a dataset string names as READER/NAME, or ""."""
    prefix, slash, _ = dataset.partition("/")
    return prefix.lower() if slash else ""


def _named(
    config: RunConfig, dataset: str, root: str | None, split: str, place: Path, *, training: bool, mode: str
) -> Split:
    """Open a split by a dataset string of timm.

    Args:
        root: folder of the data or of their cache, if the reader wants one.
        place: the name of the data in messages.
        mode: of Pillow, in which images are read.

    Raises:
        PlanError: see `open_source`.
    """
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    reader = _reader(dataset)
    problems_of = partial(field_problems, reader, dataset, root, split, config.data_kwargs, place)
    options: dict[str, Any] = {} if reader == "torch" else {"input_img_mode": mode}
    try:
        images = create_dataset(
            dataset,
            root=root,
            split=split,
            is_training=training,
            batch_size=config.batch_size,
            seed=config.seed,
            **options,
            **config.data_kwargs,
        )
    except ImportError as error:
        package = "datasets" if dataset.startswith("hf") else error.name
        raise PlanError(
            f"--dataset {dataset}: needs {error.name}, which is not installed; pip install {package}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # the packages behind timm's readers raise errors of their own
        if problems := problems_of(None):
            raise PlanError(problems) from error
        raise PlanError(
            f"--dataset {dataset}: timm cannot open the split {split!r} ({type(error).__name__}: {error}); "
            "correct --dataset, --data, --set train_split, --set val_split or --set data_kwargs"
        ) from error
    if problems := problems_of(images):
        raise PlanError(problems)
    is_stream = isinstance(images, IterableDataset)
    if is_stream and not training:
        raise PlanError(
            f"--dataset {dataset}: found a stream for evaluation, expected images that can be told apart by number; "
            "name a folder of images, tar files or parquet for evaluation with --set val_data=FOLDER"
        )
    return Split(place, images, names_by_number(images, place), mode, is_stream=is_stream)


def names_by_number(images: Any, place: Path) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers, empty if the dataset has none.

    A class with several names has the first of them.

    Raises:
        PlanError: a number below the largest has no name.
    """
    numbers = getattr(images, "class_to_idx", None) or getattr(getattr(images, "reader", None), "class_to_idx", None)
    names: dict[int, str] = {}
    for name, number in (numbers or {}).items():
        names.setdefault(int(number), str(name))
    if unnamed := [number for number in range(max(names, default=-1) + 1) if number not in names]:
        raise PlanError(
            f"{place}: found no name for the classes {format_names(list(map(str, unnamed)))}, expected one for each "
            f"number from 0 to {max(names)}; correct the class_map"
        )
    return tuple(names[number] for number in sorted(names))
