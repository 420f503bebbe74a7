"""Names of arms, from the files that a comparison is given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


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
