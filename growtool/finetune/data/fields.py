"""Checks of Hugging Face datasets and parquet files: the columns of images and labels, their types, and every label.

Most of it asks the `datasets` objects that timm's readers hold, so that the package is imported only for such data.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from timm.data.readers.class_map import remap_labels
from timm.data.readers.targets import get_field, has_field

from growtool.errors import PlanError, format_names
from growtool.images import Split, numbered

_DEFAULT_FIELDS = {"input_key": "image", "target_key": "label"}  # of timm's readers
_TEXT, _BYTES = ("string", "large_string"), ("binary", "large_binary")  # dtypes of `datasets`


def field_problems(
    reader: str,
    dataset: str,
    root: str | None,
    split: str,
    options: Mapping[str, Any],
    place: Path,
    images: Any,
) -> list[str]:
    """Return the problems with the fields of a Hugging Face dataset, one line each; none for data of other readers.

    Args:
        reader: the prefix of a timm reader.
        dataset, root, split: as they are passed to timm.
        place: the name of the data in messages.
        images: timm's dataset; None if it could not be opened.
    """
    if reader not in ("hfds", "hfids"):
        return []
    # timm's `hfds` reader casts the column of images, and `datasets` then claims one even where there is none: so the
    # features are asked of the dataset as it is stored.
    stored = _features_stored(dataset, root, split) if reader == "hfds" or images is None else None
    features = stored or (None if images is None else _features_of(images.reader))
    if not features:
        return []
    columns = format_names(sorted(features))
    fields = {key: str(options.get(key, default)) for key, default in _DEFAULT_FIELDS.items()}
    problems = [
        f"{place}: found the columns {columns}, expected one named {name}; choose with "
        f"--set data_kwargs={{{key}: NAME}}"
        for key, name in fields.items()
        if not _has(features, name)
    ]
    if problems:
        return problems
    label = _feature(features, fields["target_key"])
    if getattr(label, "dtype", "") in _TEXT and not options.get("class_map"):
        return [
            f"{place}: the column {fields['target_key']} holds text, expected numbers of classes; name a file that "
            "lists the classes, one a line in their order, with --set data_kwargs={class_map: FILE.txt}, or another "
            f"column with --set data_kwargs={{target_key: NAME}} (columns: {columns})"
        ]
    image = _feature(features, fields["input_key"])
    if type(image).__name__ != "Image" and getattr(image, "dtype", "binary") not in _BYTES:
        return [
            f"{place}: the column {fields['input_key']} holds {getattr(image, 'dtype', type(image).__name__)}, "
            f"expected images; choose with --set data_kwargs={{input_key: NAME}} (columns: {columns})"
        ]
    return []


def require_labels(split: Split, num_classes: int) -> None:
    """Check every label of data whose labels can be read without their images; other data pass.

    Args:
        split: of any reader.
        num_classes: logits of the model.

    Raises:
        PlanError: a label is no number of a class, or not in the file that lists the classes.
    """
    reader = getattr(split.images, "reader", None)
    table, key = getattr(reader, "dataset", None), str(getattr(reader, "label_key", ""))
    if table is None or key not in getattr(table, "column_names", ()):
        return
    dtype = getattr(table.features[key], "dtype", "")
    if getattr(reader, "remap_class", False):
        if dtype.startswith(("int", "uint", *_TEXT)):
            _require_listed(split, reader, table.unique(key))
    elif dtype.startswith(("int", "uint")):
        number = numbered(split, split.classes, num_classes=num_classes).number
        # A missing label is None and comes first: the error names the smallest label that is wrong.
        for label in sorted(table.unique(key), key=lambda label: (label is not None, label)):
            number(label)


def _require_listed(split: Split, reader: Any, labels: Iterable[Any]) -> None:
    """Check that the reader's file of classes (`class_map`) lists every label; raise PlanError if not."""
    unknown = []
    for label in labels:
        try:
            remap_labels(label, reader.class_to_idx, reader._source_names)
        except KeyError:
            unknown.append(repr(label))
    if unknown:
        raise PlanError(
            f"{split.root}: found the labels {format_names(sorted(unknown))}, expected only those in the file of "
            "class_map; add them to it, or correct the data"
        )


def _features_stored(dataset: str, root: str | None, split: str) -> Mapping[str, Any] | None:
    """Return the features of a dataset as it is stored, by opening it without timm; None if that is impossible."""
    try:
        load = importlib.import_module("datasets").load_dataset
        features: Mapping[str, Any] = load(dataset.partition("/")[2], split=split, cache_dir=root).features
    except Exception:  # it cannot be opened at all, which timm's own error says
        return None
    return features


def _features_of(reader: Any) -> Mapping[str, Any] | None:
    """Return the features that a timm reader knows: `hfds` by its table, `hfids` by its builder."""
    table = getattr(reader, "dataset", None)
    features: Mapping[str, Any] | None = getattr(table, "features", None)
    return features or getattr(getattr(getattr(reader, "builder", None), "info", None), "features", None)


def _has(features: Mapping[str, Any], name: str) -> bool:
    """Return whether there is a field of that name; commas separate the names of several binary fields."""
    return all(has_field(features, part.strip()) for part in name.split(","))


def _feature(features: Mapping[str, Any], name: str) -> Any:
    """Return the feature of that name, or None for several names."""
    return get_field(features, name) if "," not in name else None
