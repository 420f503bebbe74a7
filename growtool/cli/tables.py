"""Tables of results: columns if they fit the terminal, else a paragraph for each row; no word is ever broken."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from growtool.cli.console import UNBOUNDED, results, say

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType
    from rich.table import Column, Table
    from rich.text import Text

    from growtool.report.page import TableText


def new_table(*columns: str, tight: bool = False) -> Table:
    """Return an empty table without frames.

    Args:
        columns: titles; a column is right-justified if its title begins with `>`, which is not shown.
        tight: whether there is as little space as possible between columns.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_header=any(columns), pad_edge=False, collapse_padding=tight, show_edge=not tight)
    for title in columns:
        justify: JustifyMethod = "right" if title.startswith(">") else "left"
        table.add_column(title.removeprefix(">"), justify=justify)
    return table


def show_rows(columns: Sequence[str], rows: Iterable[Iterable[str]], *, tight: bool = False) -> None:
    """Print rows under titles; see `new_table`. Cells may hold rich's markup."""
    table = new_table(*columns, tight=tight)
    for row in rows:
        table.add_row(*row)
    show(table)


def show_figures(table: TableText) -> None:
    """Print a table whose columns hold figures, all but the first."""
    first, *others = table.header
    show_rows((first, *(f">{title}" for title in others)), (map(escape, row) for row in table.rows))


def show(table: Table) -> None:
    """Print a table of results. One that is too wide even with its cells wrapped between words is shown row by row."""
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
    # rich fills every line up to the width of the table; a file or a pipe gets no blanks at the ends
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _widths(table: Table, to: Console) -> list[int] | None:
    """Return the width of each column, the widest made narrower until all fit; None if words would be broken.

    rich would break words to make a table fit.
    """
    from rich.measure import Measurement, measure_renderables

    options = to.options.update(width=UNBOUNDED)
    ranges = [measure_renderables(to, options, [*column.cells, column.header]) for column in table.columns]
    widths = [span.maximum for span in ranges]
    # rich's minimum of a text is its longest word
    least = [span.maximum if c.no_wrap else span.minimum for span, c in zip(ranges, table.columns, strict=True)]
    spacing = Measurement.get(to, options, table).maximum - sum(widths)
    while sum(widths) + spacing > to.width:
        widest = max(range(len(widths)), key=lambda n: widths[n] if widths[n] > least[n] else 0)
        if widths[widest] <= least[widest]:
            return None
        widths[widest] -= 1
    return widths


def _records(table: Table) -> Iterator[Text]:
    """Yield a paragraph for each row: the first cell in bold, then a line `title: cell` for each other column.

    A column without a title belongs to the column before it. Right-justified columns, which hold figures, go on in the
    line before them. Empty cells are left out.
    """
    from rich.text import Text

    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(_text, cells)
        entries: list[tuple[Column, list[Text]]] = []  # a titled column, its cell and those of untitled ones after it
        for column, cell in zip(table.columns[1:], others, strict=True):
            if column.header or not entries:
                entries.append((column, []))
            if cell.plain:
                entries[-1][1].append(cell)
        lines = [Text(first.plain.lstrip(), "bold")]
        for column, values in entries:
            if not values:
                continue
            entry = Text.assemble((f"{column.header}: " if column.header else "", "dim"), Text(", ").join(values))
            if column.justify == "right" and len(lines) > 1:
                lines[-1].append("; ").append_text(entry)
            else:
                lines.append(Text("  ").append_text(entry))
        yield Text("\n").join([*lines, Text()])


def _text(cell: RenderableType) -> Text:
    """Return a cell on one line, its own lines separated by commas."""
    from rich.text import Text

    return Text(", ").join(Text.from_markup(str(cell)).split("\n"))
