"""The checkpoint that grows, opened as plans say of it: `model` and `model_args` at the top of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.plan import Plan

_REMEDY = "name the timm model with `model:` (and `model_args:`) in the plan, or to `growtool grow` with --model"


def open_planned(path: str | Path, plans: Sequence[Plan], *, counting: bool = False) -> Checkpoint:
    """The checkpoint in `path`, which all of `plans` are to grow.

    With `counting` no values are to be read of it.

    Where the file itself does not say which model it is, a plan that says nothing takes it as the others say it is.

    Raises:
        CheckpointError: it cannot be opened, holds another model, or nothing says which one it holds.
        PlanError: the plans say different things of it.
    """
    told = [(plan.model, dict(plan.model_args)) for plan in plans]
    models, arguments = _told([model for model, _ in told]), _told([given for _, given in told])
    problems = [_different(path, key, f) for key, f in (("model", models), ("model_args", arguments)) if len(f) > 1]
    if not problems and arguments and not all(given for _, given in told) and _says_itself(path):
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
    return (
        f"{key}: found {' and '.join(map(repr, found))} in the plans for {path}, expected the same in all of them, as "
        "they grow one checkpoint; give each its own call"
    )


def _says_itself(path: str | Path) -> bool:
    """Whether the checkpoint tells which model it holds."""
    try:
        open_checkpoint(path, counting=True)
    except CheckpointError:
        return False
    return True


def _told(values: Sequence[Any]) -> list[Any]:
    """Each different value that says something, in their order."""
    return [value for n, value in enumerate(values) if value and value not in values[:n]]
