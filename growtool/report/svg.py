"""SVG elements of all pictures, which can be files or parts of a page, on light and dark grounds and on paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = (
    "svg.growtool{color:#1f2328;background:#fff}"
    "@media screen and (prefers-color-scheme:dark){svg.growtool{color:#e6edf3;background:#0d1117}}"
)


def svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    """Return elements as a picture of some pixels in SVG, with a style for light and dark grounds.

    `label` is for screen readers, and `currentColor` in an element is the colour of text.
    """
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="growtool" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
    )
    return "\n".join([opening, f"<style>{_STYLE}</style>", *parts, "</svg>"])


def text(x: float, y: float, words: str, extra: str = "") -> str:
    """Return a line of text as an element; `extra` are further attributes."""
    return f'<text x="{x:g}" y="{y:g}"{f" {extra}" if extra else ""}>{escape(words)}</text>'


def titled(element: str, title: str) -> str:
    """Return an element with a tooltip."""
    return f"<g><title>{escape(title)}</title>{element}</g>"
