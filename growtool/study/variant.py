"""Other training of the same grown checkpoint: what a comparison sets against its plain recipe."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.finetune.options import read_config

_ALIKE = frozenset({"data", "val_data", "batch_size", "eval_interval", "macs"})
"""Options that have to be the same for all arms, or their budgets and curves could not be compared."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Options of `growtool finetune` on top of those all arms share.

    Attributes:
        name: unique in the comparison; arms are called `PLAN+NAME`.
        options: by name.
    """

    name: str
    options: Mapping[str, Any]


def read_variants(paths: Sequence[Path]) -> tuple[Variant, ...]:
    """A variant per file, named after it.

    Raises:
        PlanError: a file is no mapping of options, or two have one name; all problems at once.
    """
    problems: list[str] = []
    found: list[Variant] = []
    for path in paths:
        try:
            found.append(Variant(re.sub(r"[^\w.-]+", "-", path.stem), read_config(path)))
        except PlanError as error:
            problems.extend(error.problems)
    names = [variant.name for variant in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(
            f"--variant: found the file name {', '.join(twice)} twice, expected a name of its own for each; rename one"
        )
    if problems:
        raise PlanError(problems)
    return tuple(found)


def undue_options(variant: Variant, decided: Collection[str]) -> list[str]:
    """What a variant may not set: options in `decided`, which the comparison decides, and those all arms share."""
    undue = sorted(set(variant.options) & {*decided, *_ALIKE})
    if not undue:
        return []
    return [
        f"--variant {variant.name}: found the options {', '.join(undue)}, expected none that has to be the same for "
        "all arms or that the comparison decides; drop them, or make another comparison"
    ]
