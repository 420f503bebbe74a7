"""Output of the commands: results go to stdout; progress, notes and errors go to stderr."""

from __future__ import annotations

import errno
import json
import math
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
    from rich.text import Text

# What the user can do about an error of the system, by its errno.
_REMEDIES = {
    errno.EACCES: "check the permissions or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: "free some space or choose another place, then run the same command again",
    errno.EDQUOT: "the quota is used up; free some space or choose another place",
}


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]
UNBOUNDED = 100_000  # columns of a file or pipe: a table there is as wide as it needs to be
_COMMANDS = ("growtool ", "torchrun ")  # a line that begins so is a command to copy
_quiet = False
_bars = 0  # how many progress bars are on the terminal


def set_quiet(wanted: bool) -> None:
    """Set whether progress and notes are left out; errors and results are printed in any case."""
    global _quiet
    _quiet = wanted


def is_quiet() -> bool:
    """Return whether progress and notes are left out."""
    return _quiet


@cache
def console() -> Console:
    """Return the console for progress, notes and errors, which writes to stderr and honours NO_COLOR.

    There is one for the whole process: rich prints a line above a progress bar only if both are on one console.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def results() -> Console:
    """Return a console for results, which writes to stdout; in a file or pipe its width is without a limit."""
    from rich.console import Console

    bounded = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = Console().width if bounded else UNBOUNDED
    # The height matters to nothing, but rich takes a dumb terminal for 80 columns unless both numbers are given.
    return Console(highlight=False, width=width, height=25)


def say(text: str | Text, *, style: str = "", hanging: int = 0) -> None:
    """Print results; a string may hold rich's markup. Where a line wraps, the rest is indented by `hanging` more."""
    from rich.text import Text

    _print(results(), Text.from_markup(text) if isinstance(text, str) else text, style, hanging=hanging)


def note(text: str | Text) -> None:
    """Print a note on stderr, unless notes are left out; a string as it is, whatever brackets it holds."""
    from rich.text import Text

    if not _quiet:
        _print(console(), Text(text) if isinstance(text, str) else text)


def remark(text: str) -> None:
    """Print a note that begins with `note:`."""
    from rich.text import Text

    note(Text.assemble(("note:", "yellow"), " ", text))


def _print(to: Console, text: Text, style: str = "", *, indented_is_code: bool = False, hanging: int = 0) -> None:
    """Print a text; on a terminal, lines are wrapped between words.

    Args:
        to: the console.
        text: the text.
        style: of the whole text.
        indented_is_code: whether indented lines are code. They are left to the terminal to wrap: a user who copies them
            gets one line, while breaks that are printed are copied, too.
        hanging: columns by which the second and later parts of a wrapped line are indented.
    """
    from rich.text import Text

    if to.is_terminal:
        parts: list[Text] = []
        for line in text.split("\n", allow_blank=True):
            is_code = indented_is_code and line.plain.startswith("  ")
            parts += [line] if is_code else _wrap(line, to.width, hanging)
        text = Text("\n").join(parts)
    to.print(text, style=style or None, soft_wrap=True)


def _wrap(line: Text, width: int, hanging: int) -> list[Text]:
    """Break a line into parts of at most `width` columns, between words; a longer word is a part of its own.

    All parts are indented as the line is, all but the first by `hanging` more. A command that has the line to itself
    stays whole, so that it can be copied.
    """
    from rich.cells import cell_len
    from rich.text import Text

    if line.plain.startswith(_COMMANDS):
        return [line]
    indent = len(line.plain) - len(line.plain.lstrip()) + hanging
    breaks, used = [], 0  # offsets where a new part begins, and columns of the present part
    for word in re.finditer(r"\s*\S+\s*", line.plain):
        length = cell_len(word.group().rstrip())
        if used and used + length > width:
            breaks.append(word.start())
            used = indent
        used += cell_len(word.group())
    parts = line.divide(breaks)
    for part in parts:
        part.rstrip()
    return [part if n == 0 else Text(" " * indent).append_text(part) for n, part in enumerate(parts)]


def emit_json(document: Mapping[str, Any]) -> None:
    """Write `document` to stdout as JSON. Numbers that are not finite become null, as JSON has no word for them."""
    sys.stdout.write(json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_problems(problems: tuple[str, ...]) -> None:
    """Print a red `error:` block for each problem; the texts are printed as they are, whatever brackets they hold."""
    from rich.text import Text

    for problem in problems:
        _print(console(), Text.assemble(("error: ", "bold red"), problem), indented_is_code=True)


def describe_os_error(error: OSError) -> str:
    """Return a message for an error of the system: the file, what the system says, and what to do about it."""
    place = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{place}{reason}; {remedy}" if remedy else f"{place}{reason}"


@contextmanager
def progress(description: str, total: int | None, *, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, one line elsewhere; yield a function that advances the bar by some steps.

    While another bar is shown, it is one line on a terminal, too: rich has room for one live display.

    Args:
        description: text before the bar.
        total: how many steps there are; None if nobody knows.
        of_bytes: whether steps are bytes, to be shown as KiB and MiB.
    """
    global _bars
    if is_quiet() or _bars or not console().is_interactive:
        note(description)
        yield lambda steps: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    done = DownloadColumn(binary_units=True) if of_bytes else MofNCompleteColumn()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), done, TimeRemainingColumn()
    _bars += 1
    try:
        with Progress(*columns, console=console(), transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda steps: bar.advance(task, steps)
    finally:
        _bars -= 1


def fetching(what: str, size: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show the progress of a download of `size` bytes, 0 if nobody knows; see `progress`."""
    from growtool.report import units

    description = f"fetching {what}" + (f" ({units.size(size)})" if size else "")
    return progress(description, size or None, of_bytes=True)


def _finite(value: Any) -> Any:
    """Return plain data with None in place of infinities and NaNs."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
