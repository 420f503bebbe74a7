"""What the commands share for talking to people and programs: people read stderr, programs read stdout."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table

_REMEDIES = {
    errno.EACCES: "check the permissions or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "free some space or choose another place, then run the same command again",
    errno.EDQUOT: "the quota is used up; free some space or choose another place",
}


@cache
def console() -> Console:
    """The one console for human text; it writes to stderr and honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def emit_json(document: Mapping[str, Any]) -> None:
    """Write `document` to stdout as one JSON document; numbers that are not finite become null, which JSON can hold."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_problems(problems: tuple[str, ...]) -> None:
    """One red `error:` block per problem; the texts are printed as they are, whatever brackets they hold."""
    from rich.text import Text

    for problem in problems:
        console().print(Text.assemble(("error: ", "bold red"), problem), soft_wrap=True)


def describe_os_error(error: OSError) -> str:
    """Where, what the system says, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{where}{what}; {remedy}" if remedy else f"{where}{what}"


def new_table(*columns: str) -> Table:
    """A plain table; a column whose title begins with `>` is right-justified."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=any(columns), pad_edge=False)
    for title in columns:
        justify: JustifyMethod = "right" if title.startswith(">") else "left"
        table.add_column(title.removeprefix(">"), justify=justify, overflow="fold")  # nothing is cut off
    return table


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing in a pipe; the yielded function advances it by that many steps."""
    if not console().is_terminal:
        yield lambda steps: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value
