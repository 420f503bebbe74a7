"""Opening the checkpoint that grows, with `model` and `model_args` as the plans tell them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.plan import Plan

_REMEDY = "name the timm model with `model:` (and `model_args:`) in the plan, or to `growtool grow` with --model"


def open_planned(path: str | Path, plans: Sequence[Plan], *, counting: bool = False) -> Checkpoint:
    """Open the checkpoint that all of some plans are to grow.

    Args:
        path: the checkpoint, as users write it.
        plans: the plans, which must not tell different models. If the file itself does not say which model it holds,
            what one plan tells holds for the plans that tell nothing, too.
        counting: whether only names, shapes and types will be read.

    Raises:
        CheckpointError: the checkpoint cannot be opened, holds another model, or nothing says which one it holds.
        PlanError: the plans tell different models.
    """
    models, arguments = _distinct([plan.model for plan in plans]), _distinct([dict(plan.model_args) for plan in plans])
    told = (("model", models), ("model_args", arguments))
    problems = [_different(path, key, values) for key, values in told if len(values) > 1]
    # A plan that tells no arguments gets those of the file's config, if there is one.
    if not problems and arguments and not all(plan.model_args for plan in plans) and _says_itself(path):
        problems = [_different(path, "model_args", [*arguments, "nothing"])]
    if problems:
        raise PlanError(problems)
    return open_checkpoint(
        path,
        architecture=models[0] if models else None,
        model_args=arguments[0] if arguments else None,
        remedy=_REMEDY,
        counting=counting,
    )


def _different(path: str | Path, key: str, found: Sequence[Any]) -> str:
    """Return the problem of plans that tell different things of one checkpoint."""
    return (
        f"{key}: found {' and '.join(map(repr, found))} in the plans for {path}, expected the same in all of them, as "
        "they grow one checkpoint; give each its own call"
    )


def _says_itself(path: str | Path) -> bool:
    """Return whether the checkpoint tells which model it holds."""
    try:
        open_checkpoint(path, counting=True)
    except CheckpointError:
        return False
    return True


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return the values without repetitions, and without those that are empty or None."""
    return [value for n, value in enumerate(values) if value and value not in values[:n]]
