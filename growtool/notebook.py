"""The display of results in notebooks: tables in HTML, and progress bars."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


def as_html(title: str, facts: Mapping[str, str], *more: tuple[Sequence[str], Iterable[Sequence[str]]]) -> str:
    """Return a title, a table of facts and further tables as HTML, all texts escaped.

    Args:
        title: in bold, above the tables.
        facts: label -> text, a row each.
        more: header and rows of each further table.
    """
    tables = [((), facts.items()), *more]
    return f"<b>{escape(title)}</b>" + "".join(_table(header, rows) for header, rows in tables)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<thead>{_row('th', header)}</thead>" if header else ""
    return f"<table>{head}<tbody>{''.join(_row('td', row) for row in rows)}</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"


def in_session() -> bool:
    """Return whether the code runs in IPython, in a notebook or a terminal."""
    ipython: Any = sys.modules.get("IPython")  # a session has imported it
    return ipython is not None and ipython.get_ipython() is not None


Show = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Displays progress: takes a description and a total; the context manager yields a function that advances it."""


@contextmanager
def shown(what: str, total: int, **options: Any) -> Iterator[Callable[[int], None]]:
    """Show a bar of tqdm in an IPython session, nothing elsewhere; yield a function that advances it by some steps."""
    if not in_session():
        yield lambda steps: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=what, leave=False, **options) as bar:
        yield bar.update


def with_bar(
    what: str, total: Callable[[Mapping[str, Any]], int], **options: Any
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function that takes `advance`, so that it shows a bar in a session unless its caller gives `advance`.

    Args:
        what: description of the bar.
        total: computes how far the bar goes, from the function's arguments by name.
        options: further options of `tqdm`.
    """

    def decorated(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @wraps(function)
        def watched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if "advance" in kwargs:
                return function(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            with shown(what, total(given), **options) as advance:
                kwargs["advance"] = advance
                return function(*args, **kwargs)

        return watched

    return decorated
