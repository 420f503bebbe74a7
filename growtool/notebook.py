"""The display of results in notebooks: tables in HTML, and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import Any


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
