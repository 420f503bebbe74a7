"""Line charts: a description that is drawn as SVG, which needs no package, or as PNG by matplotlib, an extra."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.report import units
from growtool.report.svg import svg, text
from growtool.report.ticks import log_ticks, ticks

# Okabe and Ito's colours, which colour-blind readers can tell apart; further series have the same colours dashed.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6e6e6e")
_DASHES = ("", "6 3", "2 3")
_WIDTH, _HEIGHT = 480, 300  # narrow enough for a phone, and for a column of a paper
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 30, 44  # margins around the axes, in pixels
_EDGE = 8  # pixels between the edge and the title or the legend
_LABEL = 36  # pixels that a number below the axis takes
_LEGEND_LINE, _SHORT = 17, 28  # height of a line of the legend; letters of a name of which a line has room for two
_FEW = 12  # points of a line at most whose spread is drawn as bars; more have a band


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        name: for the legend.
        x: positions, ascending.
        y: a value at each.
        spread: half the height of a bar or band around each value (a standard deviation); empty without one.
        fit: positions and values of a curve to draw dotted in the same colour.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()
    fit: tuple[tuple[float, float], ...] = ()

    @property
    def has_bars(self) -> bool:
        """Whether the spread is drawn as a bar at each point, and not as a band."""
        return bool(self.spread) and len(self.x) <= _FEW


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of several lines over one axis.

    Attributes:
        title: above the picture.
        x_label, y_label: what the axes show, units included.
        series: the lines, in the order of the legend.
        marks: positions on the x axis to mark with a line and a word, such as the points of growth.
        log_x: whether the x axis is logarithmic; positions are then above 0.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[tuple[float, str], ...] = ()
    log_x: bool = False


def to_svg(chart: Chart) -> str:
    """Return the chart with its legend as an SVG element; the value of a point shows where the pointer rests."""
    frame, columns = _Frame.around(chart), _columns(chart)
    parts = [
        text(_EDGE, 18, chart.title, 'font-weight="600"'),
        *_axes(chart, frame),
        *(part for mark in chart.marks for part in _mark(mark, frame)),
        *(part for number, series in enumerate(chart.series) for part in _line(number, series, frame)),
        *(part for number, series in enumerate(chart.series) for part in _legend(number, series.name, columns)),
    ]
    return svg(_WIDTH, _HEIGHT + _LEGEND_LINE * math.ceil(len(chart.series) / columns), chart.title, parts)


def _columns(chart: Chart) -> int:
    """Return how many names a line of the legend holds."""
    return 2 if all(len(series.name) <= _SHORT for series in chart.series) else 1


def can_draw_png() -> bool:
    """Return whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_png(charts: Sequence[Chart], path: Path) -> None:
    """Draw charts into one PNG file, two beside each other.

    Raises:
        PlanError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlanError(
            f"{path}: drawing PNG needs matplotlib, which is not installed; pip install matplotlib"
        ) from error
    columns = min(len(charts), 2)
    rows = math.ceil(len(charts) / columns)
    figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained", dpi=150)
    every_axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in every_axes[len(charts) :]:
        unused.remove()
    for axes, chart in zip(every_axes, charts, strict=False):
        _plot(axes, chart)
    figure.savefig(path, format="png")


def _plot(axes: Any, chart: Chart) -> None:
    """Draw a chart into axes of matplotlib."""
    for number, series in enumerate(chart.series):
        colour, dashes = _style(number)
        line = (0, tuple(map(float, dashes.split()))) if dashes else "solid"
        axes.plot(series.x, series.y, color=colour, linestyle=line, marker="o", markersize=3, label=series.name)
        if series.has_bars:
            axes.errorbar(series.x, series.y, series.spread, color=colour, linestyle="none", capsize=3)
        elif series.spread:
            low, high = zip(*_band(series), strict=True)
            axes.fill_between(series.x, low, high, color=colour, alpha=0.15, linewidth=0)
        if series.fit:
            axes.plot(*zip(*series.fit, strict=True), color=colour, linestyle="dotted", linewidth=1)
    for x, word in chart.marks:
        axes.axvline(x, color="grey", linestyle="dotted")
        axes.annotate(word, (x, 1), xycoords=("data", "axes fraction"), fontsize=8, va="top")
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.grid(alpha=0.3)
    x_ticks = _Frame.around(chart).x_ticks  # the same numbers as in the SVG
    axes.set_xscale("log" if chart.log_x else "linear")
    axes.set_xticks(x_ticks, [_number(x) for x in x_ticks])
    axes.minorticks_off()
    if chart.series:
        axes.legend(fontsize=8)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The axes of a chart in SVG: their ticks, the first and the last of which are the ends, and where values lie."""

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    log_x: bool

    @classmethod
    def around(cls, chart: Chart) -> _Frame:
        """Return the frame that holds everything in a chart."""
        xs = [x for series in chart.series for x in series.x] + [x for x, _ in chart.marks]
        bands = [value for series in chart.series for pair in _band(series) for value in pair]
        ys = [y for y in bands if math.isfinite(y)] + [y for series in chart.series for _, y in series.fit]
        ticks_of_x = log_ticks if chart.log_x else ticks
        return cls(
            ticks_of_x(min(xs, default=1.0 if chart.log_x else 0.0), max(xs, default=1.0)),
            ticks(min(ys, default=0.0), max(ys, default=1.0)),
            chart.log_x,
        )

    def x(self, value: float) -> float:
        """Return the horizontal place of a value, in pixels from the left."""
        ends = (self.x_ticks[0], self.x_ticks[-1])
        low, high, place = map(math.log, (*ends, value)) if self.log_x else (*ends, value)
        return _LEFT + (place - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical place of a value, in pixels from the top."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _band(series: Series) -> list[tuple[float, float]]:
    """Return the lower and upper end of the spread at each point."""
    spread = series.spread or (0.0,) * len(series.y)
    return [(y - s, y + s) for y, s in zip(series.y, spread, strict=True)]


def _number(value: float) -> str:
    return units.count(value) if abs(value) >= 1000 else f"{value:.4g}"


def _axes(chart: Chart, frame: _Frame) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in frame.y_ticks:
        y = frame.y(value)
        yield f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="currentColor" stroke-opacity=".15"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
    labelled = 0.0  # pixels from the left that numbers take already; ticks on a logarithmic axis can be too close
    for value in frame.x_ticks:
        x = frame.x(value)
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="currentColor"/>'
        if x - _LABEL / 2 >= labelled:
            yield f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{_number(value)}</text>'
            labelled = x + _LABEL / 2
    yield f'<path d="M{_LEFT} {bottom}H{right}" stroke="currentColor"/>'
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    yield f'<text x="{middle_x:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(chart.x_label)}</text>'
    turned = f"translate(13 {middle_y:.0f}) rotate(-90)"
    yield f'<text transform="{turned}" text-anchor="middle">{escape(chart.y_label)}</text>'


def _mark(mark: tuple[float, str], frame: _Frame) -> Iterator[str]:
    x = frame.x(mark[0])
    yield f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="currentColor" stroke-dasharray="2 3"/>'
    yield f'<text x="{x + 4:.1f}" y="{_TOP + 10}" font-size="10">{escape(mark[1])}</text>'


def _style(number: int) -> tuple[str, str]:
    """Return colour and dashes of a series by its number."""
    return _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]


def _line(number: int, series: Series, frame: _Frame) -> Iterator[str]:
    colour, dashes = _style(number)
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(y)]
    if series.has_bars:
        for x, (low, high) in zip(series.x, _band(series), strict=True):
            bar = f"M{frame.x(x) - 4:.1f} {frame.y(low):.1f}h8m-4 0V{frame.y(high):.1f}m-4 0h8"
            yield f'<path d="{bar}" fill="none" stroke="{colour}"/>'
    elif series.spread:
        edges = list(zip(series.x, _band(series), strict=True))
        outline = [(x, low) for x, (low, _) in edges] + [(x, high) for x, (_, high) in reversed(edges)]
        yield f'<polygon points="{_points(outline, frame)}" fill="{colour}" fill-opacity=".15"/>'
    if series.fit:
        dotted = f'fill="none" stroke="{colour}" stroke-dasharray="1 3"'
        yield f'<path d="M{_points(series.fit, frame)}" {dotted}/>'
    dashing = f' stroke-dasharray="{dashes}"' if dashes else ""
    yield f'<polyline points="{_points(points, frame)}" fill="none" stroke="{colour}" stroke-width="2"{dashing}/>'
    for x, y in points:
        tooltip = escape(f"{series.name}: {_number(y)} at {_number(x)}")
        place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
        yield f'<circle {place} r="3" fill="{colour}"><title>{tooltip}</title></circle>'


def _points(points: Sequence[tuple[float, float]], frame: _Frame) -> str:
    return " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def _legend(number: int, name: str, columns: int) -> Iterator[str]:
    colour, dashes = _style(number)
    row, column = divmod(number, columns)
    x, y = _EDGE + column * (_WIDTH - _EDGE) // columns, _HEIGHT + 6 + _LEGEND_LINE * row
    dashing = f' stroke-dasharray="{dashes}"' if dashes else ""
    yield f'<path d="M{x} {y - 4}h18" stroke="{colour}" stroke-width="2"{dashing}/>'
    yield text(x + 24, y, name)
