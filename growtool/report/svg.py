"""What all pictures share: SVG that stands alone, in a page or as an image, on light and dark grounds and on paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_STYLE = (
    "svg.growtool{color:#1f2328;background:#fff}"
    "@media screen and (prefers-color-scheme:dark){svg.growtool{color:#e6edf3;background:#0d1117}}"
)


def svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    """An SVG element that is as wide as there is room, up to its own size.

    Args:
        width, height: in units of the parts, which are pixels where there is room.
        label: what readers hear who do not see it.
        parts: elements; `currentColor` is the colour of text.
    """
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="growtool" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
    )
    return "\n".join([opening, f"<style>{_STYLE}</style>", *parts, "</svg>"])


def text(x: float, y: float, words: str, extra: str = "") -> str:
    """A line of text; `extra` are further attributes."""
    return f'<text x="{x:g}" y="{y:g}"{f" {extra}" if extra else ""}>{escape(words)}</text>'


def titled(element: str, title: str) -> str:
    """An element that tells more where the pointer rests."""
    return f"<g><title>{escape(title)}</title>{element}</g>"
