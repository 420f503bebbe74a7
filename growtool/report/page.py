"""A page of charts and tables in one HTML file that needs no network and follows the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from growtool.report.chart import Chart, to_svg

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
table { display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; }
"""


@dataclass(frozen=True, slots=True)
class TableText:
    """A table of words: `header`, then `rows` of as many cells; the first column is the row's name.

    `title` stands above it, where it has one.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    def to_html(self) -> str:
        """The table as HTML."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        heading = f"<h2>{escape(self.title)}</h2>\n" if self.title else ""
        return f"{heading}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def to_markdown(self) -> str:
        """The table as Markdown, numbers to the right."""
        heading = f"## {self.title}\n\n" if self.title else ""
        rule = ("---", *("---:" for _ in self.header[1:]))
        lines = (self.header, rule, *self.rows)
        return (
            heading
            + "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
            + "\n"
        )


def html_page(title: str, *, notes: Sequence[str], tables: Sequence[TableText], charts: Sequence[Chart]) -> str:
    """The page.

    Args:
        title: its heading.
        notes: a paragraph each, above everything.
        tables: below the notes.
        charts: below the tables.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(table.to_html() for table in tables),
        '<div class="charts">',
        *(f"<div>{to_svg(chart)}</div>" for chart in charts),
        "</div></body></html>",
    ]
    return "\n".join(parts) + "\n"
