"""Where images come from: folders, tar files, parquet, or any dataset string of timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint import input_size
from growtool.errors import PlanError
from growtool.finetune.model import count_classes
from growtool.images import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    Split,
    class_names,
    find_split,
    number_classes,
    open_split,
)

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import ModelSpec
    from growtool.finetune.config import RunConfig

_CANONICAL = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
}  # as `datasets` calls them


def split_names(config: RunConfig, *, training: bool) -> Sequence[str]:
    """Names a split may have: the one that was asked for, or the usual ones."""
    chosen = config.train_split if training else config.val_split
    return (chosen,) if chosen else TRAIN_SPLITS if training else EVAL_SPLITS


def require_source(config: RunConfig, *, training: bool) -> None:
    """Raise unless there is something to open.

    Raises:
        PlanError: no such folder, no such split in it, or options of a reader where none is.
    """
    names = split_names(config, training=training)
    folder, dataset = _place(config, training=training)
    if dataset or _parquet(folder, names):
        return
    find_split(folder, names)
    if config.data_kwargs and not config.dataset:
        raise PlanError(
            f"--set data_kwargs: found {', '.join(config.data_kwargs)}, but folders and tar files are read without "
            "options; drop them, or name a reader with --dataset"
        )


def open_source(config: RunConfig, *, training: bool, channels: int) -> Split:
    """The split to train on, or the one to evaluate on; no image is read.

    Raises:
        PlanError: it is not there, or what reads it is not installed.
    """
    names = split_names(config, training=training)
    folder, dataset = _place(config, training=training)
    if dataset:
        root = str(config.data)
        return _named(config, config.dataset, root, names[0], config.data, training=training, channels=channels)
    if split := _parquet(folder, names):
        # Absolute, as `datasets` would take the relative names of some folders (`parquet`, `csv`) for file formats.
        name, place = f"hfds/{folder.resolve()}", folder / split
        return _named(config, name, None, split, place, training=training, channels=channels)
    return open_split(find_split(folder, names), channels=channels)


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
    """
    train, held_out = (open_source(config, training=use, channels=input_size(model)[0]) for use in (True, False))
    naming = train if train.classes or not held_out.classes else held_out
    classes = class_names(naming, num_classes=count_classes(model), label_names=spec.label_names, checkpoint=name)
    for split in (train, held_out):
        number_classes(split, classes)
    return train, held_out, classes


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


def _named(
    config: RunConfig, dataset: str, root: str | None, split: str, place: Path, *, training: bool, channels: int
) -> Split:
    """A split by a dataset string of timm; `place` is what messages call it."""
    from timm.data import create_dataset
    from torch.utils.data import IterableDataset

    mode: dict[str, Any] = {} if dataset.startswith("torch/") else {"input_img_mode": "L" if channels == 1 else "RGB"}
    try:
        images = create_dataset(
            dataset,
            root=root,
            split=split,
            is_training=training,
            batch_size=config.batch_size,
            seed=config.seed,
            **mode,
            **config.data_kwargs,
        )
    except ImportError as error:
        package = "datasets" if dataset.startswith("hf") else error.name
        raise PlanError(
            f"--dataset {dataset}: needs {error.name}, which is not installed; pip install {package}"
        ) from error
    except (AssertionError, RuntimeError, ValueError, OSError, TypeError) as error:
        raise PlanError(
            f"--dataset {dataset}: timm cannot open the split {split!r} ({type(error).__name__}: {error}); "
            "correct --dataset, --data, --set train_split, --set val_split or --set data_kwargs"
        ) from error
    streamed = isinstance(images, IterableDataset)
    if streamed and not training:
        raise PlanError(
            f"--dataset {dataset}: found a stream for evaluation, expected images that can be told apart by number; "
            "name a folder of images, tar files or parquet for evaluation with --set val_data=FOLDER"
        )
    return Split(place, images, _classes(images), is_stream=streamed)


def _classes(images: Any) -> tuple[str, ...]:
    """Names in the order of their numbers; empty where the dataset does not tell."""
    numbers = getattr(images, "class_to_idx", None) or getattr(getattr(images, "reader", None), "class_to_idx", None)
    return tuple(sorted(numbers, key=numbers.__getitem__)) if numbers else ()
