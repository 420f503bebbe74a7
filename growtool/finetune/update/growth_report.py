"""Reading the growth report's entries about tensors, for the options of training that depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from growtool.checkpoint.beside import REPORT
from growtool.checkpoint.documents import parse_json
from growtool.errors import CheckpointError, PlanError

T = TypeVar("T")


def read_tensors(folder: Path, option: str, *, without: str, read: Callable[[Mapping[str, Any]], T]) -> T:
    """Return the result of `read` on the tensor entries of the growth report in `folder`.

    Args:
        folder: of a grown checkpoint.
        option: the option of `growtool finetune` that needs the report, for messages.
        without: the advice for a checkpoint without a report, for messages.
        read: called with the entries by the names of their tensors; errors of missing or wrong keys become
            CheckpointErrors.

    Raises:
        PlanError: there is no report.
        CheckpointError: the file is not a growth report.
    """
    path = folder / REPORT
    if not path.is_file():
        raise PlanError(
            f"{option}: {path}: not found, expected the report that `growtool grow` writes beside the weights; "
            f"{without}, or name the folder of a grown checkpoint"
        )
    try:
        return read(parse_json(path.read_bytes(), str(path))["tensors"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a growth report ({type(error).__name__}: {error}), expected `tensors` with an entry for "
            "each; grow the checkpoint again"
        ) from error
