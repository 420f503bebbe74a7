"""Where images come from: folders, tar files, parquet, or any dataset string of timm."""

from __future__ import annotations

from collections.abc import Sequence
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

_CANONICAL = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
}  # as `datasets` calls them
_READERS = ("torch", "hfds", "hfids", "tfds", "wds")


def split_names(config: RunConfig, *, training: bool) -> Sequence[str]:
    """Names a split may have: the one that was asked for, or the usual ones."""
    chosen = config.train_split if training else config.val_split
    return (chosen,) if chosen else TRAIN_SPLITS if training else EVAL_SPLITS


def require_source(config: RunConfig, *, training: bool) -> None:
    """Raise unless there is something to open.

    Raises:
        PlanError: no such folder, no such split in it, no such reader, or options of a reader where none is.
    """
    names = split_names(config, training=training)
    folder, dataset = _place(config, training=training)
    if dataset and _reader(dataset) not in _READERS:
        raise PlanError(
            f"--dataset {dataset}: found no reader of this name, expected READER/NAME with one of "
            f"{', '.join(_READERS)}; folders of images and tar files need none, drop it for them"
        )
    if dataset or _parquet(folder, names):
        return
    find_split(folder, names)
    if config.data_kwargs and not config.dataset and (training or config.val_data is None):
        raise PlanError(
            f"--set data_kwargs: found {', '.join(config.data_kwargs)}, but folders and tar files are read without "
            "options; drop them, or name a reader with --dataset"
        )


def open_source(config: RunConfig, *, training: bool, channels: int, checkpoint: str) -> Split:
    """The split to train on, or the one to evaluate on; no image is read.

    Args:
        config: says where it is.
        training: which of the two.
        channels: of the model's input.
        checkpoint: its name, for messages.

    Raises:
        PlanError: it is not there, what reads it is not installed, its fields are others than those that are read, or
            no image has so many channels.
    """
    require_source(config, training=training)
    mode = mode_of(channels, checkpoint)
    names = split_names(config, training=training)
    folder, dataset = _place(config, training=training)
    if dataset:
        root = str(config.data)
        return _named(config, config.dataset, root, names[0], config.data, training=training, mode=mode)
    if split := _parquet(folder, names):
        # Absolute, as `datasets` would take the relative names of some folders (`parquet`, `csv`) for file formats.
        name, place = f"hfds/{folder.resolve()}", folder / split
        return _named(config, name, None, split, place, training=training, mode=mode)
    return open_split(find_split(folder, names), mode=mode)


def open_splits(
    config: RunConfig, spec: ModelSpec, model: nn.Module, name: str
) -> tuple[Split, Split, tuple[str, ...]]:
    """The splits to train and to evaluate on, their classes numbered as the logits are, and the names of these.

    Args:
        config: says where the images are.
        spec: of the model that will be trained; may know the names of its classes.
        model: the same, weights or none.
        name: of the checkpoint in messages.

    Raises:
        PlanError: the images are not there, or are of other classes.
        CheckpointError: the names of the model's classes are not those of its logits.
    """
    channels, logits = input_size(model)[0], count_classes(model)
    train, held_out = (open_source(config, training=use, channels=channels, checkpoint=name) for use in (True, False))
    naming = train if train.classes or not held_out.classes else held_out
    classes = class_names(naming, num_classes=logits, label_names=spec.label_names, checkpoint=name)
    for split in (train, held_out):
        require_labels(split, logits)
    return numbered(train, classes, num_classes=logits), numbered(held_out, classes, num_classes=logits), classes


def _place(config: RunConfig, *, training: bool) -> tuple[Path, str]:
    """The folder to read a split from, and the dataset string that says how; "" for folders, tar files and parquet."""
    if training or config.val_data is None:
        return config.data, config.dataset
    return config.val_data, ""


def _parquet(folder: Path, names: Sequence[str]) -> str | None:
    """The split of `folder` that lies in parquet files, under the name that Hugging Face's `datasets` gives it."""
    for name in names:
        if any(folder.glob(f"{name}*.parquet")) or any(folder.glob(f"data/{name}*.parquet")):
            return _CANONICAL.get(name, name)
    return None


def _reader(dataset: str) -> str:
    """Which reader of timm a dataset string names; "" for none."""
    prefix, slash, _ = dataset.partition("/")
    return prefix.lower() if slash else ""


def _named(
    config: RunConfig, dataset: str, root: str | None, split: str, place: Path, *, training: bool, mode: str
) -> Split:
    """A split by a dataset string of timm; `place` is what messages call it."""
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    options: dict[str, Any] = {} if _reader(dataset) == "torch" else {"input_img_mode": mode}
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
    except Exception as error:  # whatever the packages behind timm's readers raise
        if problems := field_problems(_reader(dataset), dataset, root, split, config.data_kwargs, place):
            raise PlanError(problems) from error
        raise PlanError(
            f"--dataset {dataset}: timm cannot open the split {split!r} ({type(error).__name__}: {error}); "
            "correct --dataset, --data, --set train_split, --set val_split or --set data_kwargs"
        ) from error
    if problems := field_problems(_reader(dataset), dataset, root, split, config.data_kwargs, place, images):
        raise PlanError(problems)
    streamed = isinstance(images, IterableDataset)
    if streamed and not training:
        raise PlanError(
            f"--dataset {dataset}: found a stream for evaluation, expected images that can be told apart by number; "
            "name a folder of images, tar files or parquet for evaluation with --set val_data=FOLDER"
        )
    return Split(place, images, names_by_number(images, place), mode, is_stream=streamed)


def names_by_number(images: Any, place: Path) -> tuple[str, ...]:
    """Names by number, the first where a class has several; empty where the dataset does not tell.

    Raises:
        PlanError: a number has no name.
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
