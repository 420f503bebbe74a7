"""The checkpoint that grows, opened as plans say of it: `model` and `model_args` at the top of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.errors import PlanError
from growtool.plan import Plan

_REMEDY = "name the timm model with `model:` (and `model_args:`) in the plan"


def open_planned(path: str | Path, plans: Sequence[Plan]) -> Checkpoint:
    """The checkpoint in `path`, which all of `plans` are to grow.

    A plan that says nothing of its model takes it as the others say it is.

    Raises:
        CheckpointError: it cannot be opened, holds another model, or nothing says which one it holds.
        PlanError: the plans say different things of it.
    """
    models = _told([plan.model for plan in plans])
    arguments = _told([dict(plan.model_args) for plan in plans])
    problems = [
        f"{key}: found {' and '.join(map(repr, found))} in the plans for {path}, expected the same in all of them, as "
        "they grow one checkpoint; give each its own call"
        for key, found in (("model", models), ("model_args", arguments))
        if len(found) > 1
    ]
    if problems:
        raise PlanError(problems)
    return open_checkpoint(
        path,
        architecture=models[0] if models else None,
        model_args=arguments[0] if arguments else None,
        remedy=_REMEDY,
    )


def _told(values: Sequence[Any]) -> list[Any]:
    """Each different value that says something, in their order."""
    return [value for n, value in enumerate(values) if value and value not in values[:n]]
