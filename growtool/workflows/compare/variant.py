"""Variants of a comparison: other ways to train the same grown checkpoint."""

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
"""Options that must be the same for all arms: without that, budgets and curves could not be compared."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Options of `growtool finetune` that replace those all arms share.

    Attributes:
        name: unique in the comparison; empty for `PLAIN`.
        options: name -> value.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def suffix(self) -> str:
        """What is added to the name of a plan or a file."""
        return f"+{self.name}" if self.name else ""

    @property
    def place(self) -> str:
        """What stands in front of a problem with the options."""
        return f"--variant {self.name}: " if self.name else ""


PLAIN = Variant("", {})  # the options that all arms share, as they are


def read_variants(paths: Sequence[Path]) -> tuple[Variant, ...]:
    """Read a variant from each file; the file gives the name.

    Raises:
        PlanError: a file is no mapping of options, or two have the same name; all problems at once.
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
    """Return a problem if a variant sets options that the comparison decides, or that must be the same for all arms."""
    undue = sorted(set(variant.options) & {*decided, *_ALIKE})
    if not undue:
        return []
    return [
        f"{variant.place}found the options {', '.join(undue)}, expected none that has to be the same for "
        "all arms or that the comparison decides; drop them, or make another comparison"
    ]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file that a folder can have; without `+`, which joins the names of plan and variant."""
    return [re.sub(r"[^\w.-]+", "-", path.stem) for path in paths]


def taken_names(names: Sequence[str], *, option: str, reserved: tuple[str, ...] = ()) -> list[str]:
    """Return a problem if the files that `option` names have a name twice, or one with a reserved beginning."""
    taken = sorted({name for name in names if names.count(name) > 1 or name.startswith(reserved)})
    if not taken:
        return []
    found = f"{option}: found the file name {', '.join(taken)} twice"
    expected = "expected a name of its own for each"
    if reserved:
        found += " or reserved"
        expected += f", not beginning with {' or '.join(f'`{word}`' for word in reserved)}"
    return [f"{found}, {expected}; rename the files"]
