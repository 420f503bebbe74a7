"""Tables of results: aligned where they fit the terminal, else one paragraph for each row; no word is ever broken."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from growtool.cli.console import UNBOUNDED, results, say

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType
    from rich.table import Column, Table
    from rich.text import Text


def new_table(*columns: str, tight: bool = False) -> Table:
    """A plain table; a column whose title begins with `>` is right-justified.

    Args:
        columns: their titles.
        tight: whether as little space as possible stands between them.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=any(columns), pad_edge=False, collapse_padding=tight, show_edge=not tight)
    for title in columns:
        justify: JustifyMethod = "right" if title.startswith(">") else "left"
        table.add_column(title.removeprefix(">"), justify=justify)
    return table


def show_rows(columns: Sequence[str], rows: Iterable[Iterable[str]], *, tight: bool = False) -> None:
    """Print rows under the titles of `new_table`; cells may hold rich's markup."""
    table = new_table(*columns, tight=tight)
    for row in rows:
        table.add_row(*row)
    show(table)


def show(table: Table) -> None:
    """Print a table of results; its lines end between words. One that is too wide for that is shown row by row."""
    to = results()
    widths = _widths(table, to)
    if widths is None:
        for record in _records(table):
            say(record, hanging=2)
        return
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    if to.is_terminal:
        to.print(table)
        return
    with to.capture() as captured:
        to.print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))  # no blanks at the ends


def _widths(table: Table, to: Console) -> list[int] | None:
    """The width of each column, the widest made narrower until all fit; None where words would have to be broken."""
    from rich.measure import Measurement, measure_renderables

    options = to.options.update(width=UNBOUNDED)
    ranges = [measure_renderables(to, options, [*column.cells, column.header]) for column in table.columns]
    widths = [found.maximum for found in ranges]
    least = [f.maximum if c.no_wrap else f.minimum for f, c in zip(ranges, table.columns, strict=True)]
    rest = Measurement.get(to, options, table).maximum - sum(widths)
    while sum(widths) + rest > to.width:
        widest = max(range(len(widths)), key=lambda n: widths[n] if widths[n] > least[n] else 0)
        if widths[widest] <= least[widest]:
            return None
        widths[widest] -= 1
    return widths


def _records(table: Table) -> Iterator[Text]:
    """A paragraph for each row: its first cell, then the others under their titles, figures beside each other.

    A column without a title goes on with what the one before it tells.
    """
    from rich.text import Text

    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(_text, cells)
        told: list[tuple[Column, list[Text]]] = []
        for column, cell in zip(table.columns[1:], others, strict=True):
            if column.header or not told:
                told.append((column, []))
            if cell.plain:
                told[-1][1].append(cell)
        lines = [Text(first.plain.lstrip(), "bold")]
        for column, values in ((column, values) for column, values in told if values):
            shown = Text.assemble((f"{column.header}: " if column.header else "", "dim"), Text(", ").join(values))
            if column.justify == "right" and len(lines) > 1:
                lines[-1].append("; ").append_text(shown)
            else:
                lines.append(Text("  ").append_text(shown))
        yield Text("\n").join([*lines, Text()])


def _text(cell: RenderableType) -> Text:
    from rich.text import Text

    return Text(", ").join(Text.from_markup(str(cell)).split("\n"))
