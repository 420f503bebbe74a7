"""The columns of Hugging Face datasets and parquet files: whether those that are read are there and hold what is read.

`datasets` is asked through the objects that timm's readers hold; it is imported only where such data are named.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from growtool.errors import PlanError, format_names
from growtool.images import Split, numbered

_ASKED = {"input_key": "image", "target_key": "label"}  # what timm's readers ask for by default


def field_problems(
    reader: str,
    dataset: str,
    root: str | None,
    split: str,
    options: Mapping[str, Any],
    place: Path,
    images: Any = None,
) -> list[str]:
    """What is wrong with the fields of a data set of Hugging Face, one line each; none for data of other readers.

    Args:
        reader: of timm, by its prefix.
        dataset, root, split: as timm is asked for it.
        options: for the reader.
        place: what messages call it.
        images: timm's dataset where it could be opened.
    """
    if reader not in ("hfds", "hfids"):
        return []
    # timm's reader casts a column to images, which makes one of nothing where there is none: its own are no witness
    stored = _features(dataset, root, split) if reader == "hfds" or images is None else None
    features = stored or (None if images is None else _features_of(images.reader))
    if not features:
        return []
    found = format_names(sorted(features))
    asked = {key: str(options.get(key, default)) for key, default in _ASKED.items()}
    problems = [
        f"{place}: found the columns {found}, expected one named {name}; choose with --set data_kwargs={{{key}: NAME}}"
        for key, name in asked.items()
        if not _is_there(features, name)
    ]
    if problems:
        return problems
    kind = _at(features, asked["target_key"])
    if getattr(kind, "dtype", "") in ("string", "large_string") and not options.get("class_map"):
        return [
            f"{place}: the column {asked['target_key']} holds text, expected numbers of classes; name a file that "
            "lists the classes, one a line in their order, with --set data_kwargs={class_map: FILE.txt}, or another "
            f"column with --set data_kwargs={{target_key: NAME}} (columns: {found})"
        ]
    picture = _at(features, asked["input_key"])
    if type(picture).__name__ != "Image" and getattr(picture, "dtype", "binary") not in ("binary", "large_binary"):
        return [
            f"{place}: the column {asked['input_key']} holds {getattr(picture, 'dtype', type(picture).__name__)}, "
            f"expected images; choose with --set data_kwargs={{input_key: NAME}} (columns: {found})"
        ]
    return []


def require_labels(split: Split, num_classes: int) -> None:
    """Look at every label of data whose labels can be read without their images.

    Raises:
        PlanError: one is no number of a class, or not in the file that lists the classes.
    """
    reader = getattr(split.images, "reader", None)
    table, key = getattr(reader, "dataset", None), str(getattr(reader, "label_key", ""))
    if table is None or key not in getattr(table, "column_names", ()):
        return
    kind = getattr(table.features[key], "dtype", "")
    if reader is not None and getattr(reader, "remap_class", False):
        if kind.startswith(("int", "uint", "string", "large_string")):
            _require_listed(split, reader, table.unique(key))
    elif kind.startswith(("int", "uint")):
        number = numbered(split, split.classes, num_classes=num_classes).number
        for label in sorted(table.unique(key), key=lambda label: (label is not None, label)):
            number(label)


def _require_listed(split: Split, reader: Any, labels: Iterable[Any]) -> None:
    from timm.data.readers.class_map import remap_labels

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


def _features(dataset: str, root: str | None, split: str) -> Mapping[str, Any] | None:
    """Those of a data set that timm could not open; None where nobody can."""
    try:
        load = importlib.import_module("datasets").load_dataset
        found: Mapping[str, Any] = load(dataset.partition("/")[2], split=split, cache_dir=root).features
    except Exception:  # it cannot be opened at all, which timm's own error says
        return None
    return found


def _features_of(reader: Any) -> Mapping[str, Any] | None:
    table = getattr(reader, "dataset", None)
    found: Mapping[str, Any] | None = getattr(table, "features", None)
    return found or getattr(getattr(getattr(reader, "builder", None), "info", None), "features", None)


def _is_there(features: Mapping[str, Any], name: str) -> bool:
    from timm.data.readers.targets import has_field

    return all(has_field(features, part.strip()) for part in name.split(","))


def _at(features: Mapping[str, Any], name: str) -> Any:
    from timm.data.readers.targets import get_field

    return get_field(features, name) if "," not in name else None
