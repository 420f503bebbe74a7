"""Pages of pictures and tables in one HTML file, which needs no network and has a light and a dark theme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9em; margin: 1rem 0; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
figure { flex: 0 1 480px; margin: 0; break-inside: avoid; }
svg { max-width: 100%; height: auto; }
pre { overflow-x: auto; padding: .8rem; border: 1px solid #8884; }
@media screen and (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } }
@media screen and (max-width: 640px) {
  body { margin: 1rem auto; }
  thead { display: none; }
  tr { display: block; padding: .4rem 0; border-bottom: 1px solid #8884; }
  td { display: inline-block; border: 0; padding: 0 .9rem 0 0; text-align: left; }
  td:first-child { display: block; font-weight: 600; }
  td:not(:first-child)::before { content: attr(data-label) " "; opacity: .65; }
}
@media print {
  body { font-size: 10px; margin: 0; max-width: none; }
  figure { flex-basis: 48%; }
  tr { break-inside: avoid; }
}
"""


@dataclass(frozen=True, slots=True)
class TableText:
    """A table of texts.

    Attributes:
        header: titles of the columns; the first column names the rows.
        rows: as many cells each.
        title: heading above the table, if it has one.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    def only(self, *header: str) -> TableText:
        """Return the table with these columns alone."""
        places = [self.header.index(title) for title in header]
        return TableText(header, tuple(tuple(row[n] for n in places) for row in self.rows), self.title)

    def to_html(self) -> str:
        """Return the table as HTML."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        # on a narrow screen rows are paragraphs, in which _STYLE shows the label before each cell
        labels = [f' data-label="{escape(cell)}"' for cell in self.header]
        body = "\n".join(
            "<tr>"
            + "".join(f"<td{label}>{escape(cell)}</td>" for label, cell in zip(labels, row, strict=True))
            + "</tr>"
            for row in self.rows
        )
        heading = f"<h2>{escape(self.title)}</h2>\n" if self.title else ""
        return f"{heading}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def to_markdown(self) -> str:
        """Return the table as Markdown, all columns but the first right-aligned."""
        heading = f"## {self.title}\n\n" if self.title else ""
        rule = ("---", *("---:" for _ in self.header[1:]))
        lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (self.header, rule, *self.rows)]
        return heading + "".join(f"| {line} |\n" for line in lines)


def html_page(
    title: str,
    *,
    lead: Sequence[str] = (),
    figures: Sequence[str] = (),
    tables: Sequence[TableText] = (),
    code: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Return a page in HTML, with its parts in the order of the arguments.

    Args:
        title: heading of the page.
        lead: what matters most, a paragraph each.
        figures: SVG elements, side by side if there is room.
        tables: tables below the figures.
        code: text to show as it is.
        notes: how to read the page, a paragraph each.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in lead),
        '<div class="figures">',
        *(f"<figure>{figure}</figure>" for figure in figures),
        "</div>",
        *(table.to_html() for table in tables),
        *([f"<pre>{escape(code)}</pre>"] if code else []),
        *(["<h2>How to read this</h2>"] if notes else []),
        *(f"<p>{escape(note)}</p>" for note in notes),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"
