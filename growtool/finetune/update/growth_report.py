"""What training reads in the growth report: what is new, how rates scale, and whether the function was kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import REPORT, TRAINING
from growtool.checkpoint.documents import parse_json
from growtool.errors import CheckpointError, PlanError

T = TypeVar("T")
_RULES = {"SGD": "sgd"} | dict.fromkeys(("Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "AdamWLegacy"), "adam")
"""The report's key of the factors for an optimizer, by the name of its class."""


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


def read_factors(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the factors of learning rates, by parameter, from the growth report in `folder`.

    Raises:
        PlanError: there is no report, or growth knows no factors for this kind of optimizer.
        CheckpointError: the file is not a growth report.
    """
    algorithm = type(optimizer).__name__
    if algorithm not in _RULES:
        raise PlanError(
            f"--lr-factors: found the optimizer {algorithm}, expected one of {', '.join(_RULES)}, whose updates are "
            "known to grow so; use --opt adamw or sgd, or drop the option"
        )

    def read(tensors: Mapping[str, Any]) -> dict[str, float]:
        rule = _RULES[algorithm]
        return {name: float(entry["lr_factors"][rule]) for name, entry in tensors.items() if "lr_factors" in entry}

    return read_tensors(folder, "--lr-factors", without="drop the option", read=read)


def grown_with_losses(source: Checkpoint) -> bool:
    """Return whether growth changed the function of a checkpoint that has not been trained since.

    Without a report of growth beside it, or with a damaged one, the checkpoint counts as not grown with losses.
    """
    path = source.path.parent / REPORT
    if not path.is_file() or (path.parent / TRAINING).is_file():
        return False
    try:
        return bool(parse_json(path.read_bytes(), str(path))["promise"]["kind"] == "lossy")
    except (ValueError, KeyError, TypeError):
        return False
