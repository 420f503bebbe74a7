"""What the commands share for talking: results go to stdout; progress, notes and errors to stderr."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.containers import Lines
    from rich.text import Text

_REMEDIES = {
    errno.EACCES: "check the permissions or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: "free some space or choose another place, then run the same command again",
    errno.EDQUOT: "the quota is used up; free some space or choose another place",
}


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]
UNBOUNDED = 100_000  # columns of a file or pipe: a table there is as wide as it needs to be
_COMMANDS = ("growtool ", "torchrun ")
_quiet = False
_bars = 0  # that are shown


def set_quiet(wanted: bool) -> None:
    """Leave out progress and notes; errors and results are printed all the same."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Whether progress and notes are left out."""
    return _quiet


@cache
def console() -> Console:
    """The console for progress, notes and errors; it writes to stderr and honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def results() -> Console:
    """A console for what was asked for; it writes to stdout, in a pipe without a limit on the width."""
    from rich.console import Console

    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = Console().width if bounded else UNBOUNDED
    return Console(highlight=False, width=width, height=25)  # without a height, a dumb terminal is taken for 80 columns


def say(text: str | Text, *, style: str = "", hanging: int = 0) -> None:
    """Print results; a string may hold rich's markup. What goes on in the next line is indented by `hanging` more."""
    _print(results(), text, style, hanging=hanging)


def note(text: str | Text, *, style: str = "") -> None:
    """Print what stands beside the results, on stderr, unless it is to be quiet; a string may hold rich's markup."""
    if not _quiet:
        _print(console(), text, style)


def remark(text: str) -> None:
    """Print what the user should know, as a note; it is printed as it is, whatever brackets it holds."""
    from rich.text import Text

    note(Text.assemble(("note:", "yellow"), " ", text))


def _print(to: Console, text: str | Text, style: str = "", *, indented_is_code: bool = False, hanging: int = 0) -> None:
    """Print a text; lines of a terminal end between words, as a command that is copied from there has to be whole.

    Lines of code are left to the terminal, whose breaks are not copied.
    """
    from rich.text import Text

    styled = Text.from_markup(text) if isinstance(text, str) else text
    if to.is_terminal:
        lines = styled.split("\n", allow_blank=True)
        code = [indented_is_code and line.plain.startswith("  ") for line in lines]
        parts = ([line] if whole else _wrap(line, to.width, hanging) for line, whole in zip(lines, code, strict=True))
        styled = Text("\n").join(part for line in parts for part in line)
    to.print(styled, style=style or None, soft_wrap=True)


def _wrap(line: Text, width: int, hanging: int) -> Lines:
    """The line in parts of at most `width` columns, longer words in parts of their own; indented as the line is.

    All but the first are indented by `hanging` more.

    A command that has the line to itself stays whole, so that it can be copied.
    """
    from rich.cells import cell_len
    from rich.containers import Lines
    from rich.text import Text

    if line.plain.startswith(_COMMANDS):
        return Lines([line])
    indent = len(line.plain) - len(line.plain.lstrip()) + hanging
    ends, used = [], 0
    for word in re.finditer(r"\s*\S+\s*", line.plain):
        length = cell_len(word.group().rstrip())
        if used and used + length > width:
            ends.append(word.start())
            used = indent
        used += cell_len(word.group())
    parts = line.divide(ends)
    for part in parts:
        part.rstrip()
    return Lines([part if n == 0 else Text(" " * indent).append_text(part) for n, part in enumerate(parts)])


def emit_json(document: Mapping[str, Any]) -> None:
    """Write `document` to stdout as one JSON document; numbers that are not finite become null, which JSON can hold."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_problems(problems: tuple[str, ...]) -> None:
    """One red `error:` block per problem; the texts are printed as they are, whatever brackets they hold."""
    from rich.text import Text

    for problem in problems:
        _print(console(), Text.assemble(("error: ", "bold red"), problem), indented_is_code=True)


def describe_os_error(error: OSError) -> str:
    """Where, what the system says, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{where}{what}; {remedy}" if remedy else f"{where}{what}"


@contextmanager
def progress(description: str, total: int | None, *, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, one line elsewhere; the yielded function advances the bar by that many steps.

    Below another bar, which has the terminal, it is a line there, too.
    """
    global _bars
    if is_quiet() or _bars or not console().is_interactive:
        note(description)
        yield lambda steps: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done = DownloadColumn(binary_units=True) if of_bytes else MofNCompleteColumn()
    columns = TextColumn("{task.description}"), BarColumn(), done, TimeRemainingColumn()
    _bars += 1
    try:
        with Progress(*columns, console=console(), transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)
    finally:
        _bars -= 1


def fetching(what: str, size: int) -> AbstractContextManager[Callable[[int], None]]:
    """The progress of a download of so many bytes, 0 where nobody knows."""
    from rich.markup import escape

    from growtool.report import units

    told = f"fetching {what}" + (f" ({units.size(size)})" if size else "")
    return progress(escape(told), size or None, of_bytes=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value
