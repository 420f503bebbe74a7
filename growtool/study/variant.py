"""Other training of the same grown checkpoint: what a comparison sets against its plain recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.finetune.options import read_config
from growtool.study.names import names_of, taken_names

_ALIKE = frozenset(
    "data val_data dataset data_kwargs train_split val_split num_classes batch_size eval_interval".split()
)
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
    names = names_of(paths)
    problems = taken_names(names, option="--variant")
    found: list[Variant] = []
    for name, path in zip(names, paths, strict=True):
        try:
            found.append(Variant(name, read_config(path)))
        except PlanError as error:
            problems.extend(error.problems)
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
