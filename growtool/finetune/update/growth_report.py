"""What the report of growing says about each tensor, for the options of training that go by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from growtool.checkpoint.beside import REPORT
from growtool.checkpoint.documents import parse_json
from growtool.errors import CheckpointError, PlanError

T = TypeVar("T")


def read_tensors(folder: Path, option: str, *, without: str, read: Callable[[Mapping[str, Any]], T]) -> T:
    """What `read` makes of the entries, tensor by tensor, of the growth report in `folder`.

    Args:
        folder: of a grown checkpoint.
        option: of `growtool finetune` that needs the report.
        without: what to do where there is no report.
        read: entries by the name of their tensor -> what is wanted of them.

    Raises:
        PlanError: there is no report.
        CheckpointError: it is not a growth report.
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
