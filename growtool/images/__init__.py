"""Labelled images on disk: their splits and classes, and how they are read, one by one or in batches."""

from growtool.images.classes import class_names, numbered, other_classes, require_names
from growtool.images.format import ImageFormat, require_images
from growtool.images.labelled import Batch, LabelledImages
from growtool.images.reading import UnreadableImage, mode_of, reason
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
    "Batch",
    "ImageFormat",
    "LabelledImages",
    "Split",
    "UnreadableImage",
    "class_names",
    "find_images",
    "find_split",
    "mode_of",
    "numbered",
    "open_split",
    "other_classes",
    "reason",
    "require_images",
    "require_names",
    "require_readable",
]
