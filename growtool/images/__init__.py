"""Labelled images on disk: their splits, their classes, and reading them one by one or in batches."""

from growtool.images.classes import class_names, number_classes
from growtool.images.labelled import Batch, LabelledImages
from growtool.images.reading import UNREADABLE, read_image, reason
from growtool.images.split import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    Split,
    find_images,
    find_split,
    open_split,
    require_readable,
)

__all__ = [
    "EVAL_SPLITS",
    "TRAIN_SPLITS",
    "UNREADABLE",
    "Batch",
    "LabelledImages",
    "Split",
    "class_names",
    "find_images",
    "find_split",
    "number_classes",
    "open_split",
    "read_image",
    "reason",
    "require_readable",
]
