"""The errors a user can meet.

Every message says where, what was found, what was expected and what to do; one error carries every problem of its pass.
Anything else that escapes growtool is a bug in growtool.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LARGEST = 2**63 - 1  # integer that torch takes as a size, a count or a seed; larger ones are refused


class GrowtoolError(ValueError):
    """A problem the user can mend; `problems` holds one line (or block of lines) per finding, in the order found."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class PlanError(GrowtoolError):
    """What was asked for cannot be done: the plan, an argument or the target is at fault."""


class CheckpointError(GrowtoolError):
    """A file or folder is not what it should be: missing, damaged, foreign, or in disagreement with its config."""


def format_names(names: Sequence[str], shown: int = 8) -> str:
    """Return the first `shown` names separated by commas, and how many more there are: `a, b and 3 more`."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def did_you_mean(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> str:
    """Return a clause that suggests the known names closest to `name`; empty if none is close.

    Args:
        name: what the user wrote.
        known: the names that exist.
        count: how many to suggest at most.
        cutoff: least similarity, 0 to 1, as `difflib.get_close_matches` measures it.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
