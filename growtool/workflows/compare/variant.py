"""Other training of the same grown checkpoint: what a comparison sets against its plain recipe."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.finetune.options.merging import read_config

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


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each file, fit for a folder; without `+`, which joins the names of a plan and a variant."""
    return [re.sub(r"[^\w.-]+", "-", path.stem) for path in paths]


def taken_names(names: Sequence[str], *, option: str, reserved: tuple[str, ...] = ()) -> list[str]:
    """A problem if a name stands twice or begins like one that is the comparison's own.

    Args:
        names: of the files.
        option: that the user gave them with.
        reserved: what no name may begin with.
    """
    taken = sorted({name for name in names if names.count(name) > 1 or name.startswith(reserved)})
    if not taken:
        return []
    found = f"{option}: found the file name {', '.join(taken)} twice"
    expected = "expected a name of its own for each"
    if reserved:
        found += " or reserved"
        expected += f", not beginning with {' or '.join(f'`{word}`' for word in reserved)}"
    return [f"{found}, {expected}; rename the files"]
