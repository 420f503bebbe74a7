"""The picture of a checkpoint as SVG: its parts from input to output, their blocks and widths, and what growth did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import nn

from growtool.errors import CheckpointError
from growtool.report import units
from growtool.report.sections import Block, Fate, Section, Width, sections
from growtool.report.svg import svg, text, titled
from growtool.trace import Trace

_WIDTH, _EDGE = 480, 10  # narrow enough for a phone
_BAR_X, _BAR_LENGTH = 300.0, 170.0  # pixels where the bars of widths begin, and of the longest one
_TITLE, _NAME = 50, 38  # letters that a line has room for
_LINE, _STRIP = 18, 26  # pixels of the height of a line of text, and of the strip of blocks
# What weights and channels are made of -> colour. `copies` is for channels alone.
_FILLS: Mapping[str, str] = {
    "copied": "#1f5a94", "copies": "#7fb3e0", "mixed": "#e69f00", "new": "#009e73", "zero": "url(#growtool-zero)",
}  # fmt: skip
_WORDS: Mapping[str, str] = {
    "copied": "the source's", "copies": "copies", "mixed": "mixed", "new": "new", "zero": "zero",
}  # fmt: skip
_NOTE = "Beside numbers: channels, on a logarithmic scale. Columns and whole lines: weights."
_LEAST = 3  # pixels that a fate takes at least of a column or bar, so that few weights are seen, too
_HATCH = (
    '<pattern id="growtool-zero" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<path d="M0 4L4 0" stroke="currentColor" stroke-width="1"/></pattern>'
)
_ORDER: tuple[Fate, ...] = ("copied", "mixed", "new", "zero")  # of the parts of a column or bar


@dataclass(frozen=True, slots=True)
class Drawn:
    """A model to draw.

    Attributes:
        title: what the model is.
        figures: lines below the title, such as its size.
        sections: its parts.
        grown: whether the parts tell what growth did.
    """

    title: str
    figures: Sequence[str]
    sections: Sequence[Section]
    grown: bool


def of_growth(report: Mapping[str, Any], trace: Trace, model: nn.Module, where: str) -> Drawn:
    """Return a model to draw with what growth did, as a report says.

    Args:
        report: content of `growth.json`.
        trace: trace of the grown model.
        model: the grown model, with or without weights.
        where: path of the report, for messages.

    Raises:
        CheckpointError: the report is damaged, or of another model.
    """
    try:
        before, after = report["before"], report["after"]
        figures = [
            f"{units.count(before[key])} → {units.count(after[key])} {label}"
            for key, label in (("parameters", "parameters"), ("macs", "MACs"))
        ]
        title = f"{report['source']['name']} → {report['target']['architecture']}"
        lines = [", ".join(figures), f"promised: {report['promise']['kind']}"]
        return Drawn(title, lines, sections(trace, _parameters(model), report), grown=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: found no report of how this very model grew ({type(error).__name__}: {error}), expected what "
            "this version of growtool writes; grow it anew, or remove the file to draw the model as it is"
        ) from error


def of_checkpoint(title: str, figures: Sequence[str], trace: Trace, model: nn.Module) -> Drawn:
    """Return a model to draw as it is, with lines of figures below its title."""
    return Drawn(title, figures, sections(trace, _parameters(model), None), grown=False)


def _parameters(model: nn.Module) -> dict[str, int]:
    """Return parameter -> how many numbers it has."""
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def to_svg(*models: Drawn) -> str:
    """Return the picture of one model, or of several side by side, as an SVG element."""
    drawn = [_model(model) for model in models]
    parts = [f'<g transform="translate({n * _WIDTH} 0)">{"".join(parts)}</g>' for n, (parts, _) in enumerate(drawn)]
    height = max(height for _, height in drawn)
    label = " and ".join(model.title for model in models)
    return svg(_WIDTH * len(models), height, label, [f"<defs>{_HATCH}</defs>", *parts])


def _model(model: Drawn) -> tuple[list[str], int]:
    """Return the elements of one model, and how high they are."""
    longest = max((width.after for section in model.sections for width in section.widths), default=1)
    parts = [text(_EDGE, 22, _cut(model.title, _TITLE), 'font-size="14" font-weight="600"')]
    y = 22.0
    for line in model.figures:
        y += _LINE
        parts.append(text(_EDGE, y, line))
    if model.grown:
        y += _LINE
        added = any(block.new for section in model.sections for block in section.blocks)
        parts += _legend(y, _used(model.sections), added=added)
    for section in model.sections:
        y += 12
        for part, height in _section(section, y, longest, grown=model.grown):
            parts.append(part)
            y += height
    y += 10
    parts.append(text(_EDGE, y + 6, _NOTE, 'font-size="10" opacity=".7"'))
    return parts, math.ceil(y + 14)


def _cut(words: str, letters: int) -> str:
    """Return the words with an ellipsis in place of what there is no room for."""
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _used(sections: Sequence[Section]) -> list[str]:
    """Return the keys of `_FILLS` that occur in the picture, in the order of the legend."""
    used: set[str] = {fate for section in sections for fate, count in section.weights.items() if count}
    for section in sections:
        for width in section.widths:
            used |= {fill for fill, count in _shares(width) if count}
    return [fill for fill in _FILLS if fill in used]


def _legend(y: float, used: Sequence[str], *, added: bool) -> Iterator[str]:
    x = float(_EDGE)
    for fill in used:
        yield _rectangle(x, y - 9, 12, 10, fill)
        yield text(x + 16, y, _WORDS[fill], 'font-size="11"')
        x += 30 + 6 * len(_WORDS[fill])
    if added:
        yield f'<path d="M{x:g} {y - 8:g}h12" stroke="currentColor" stroke-width="2"/>'
        yield text(x + 16, y, "added block", 'font-size="11"')


def _section(section: Section, y: float, longest: int, *, grown: bool) -> Iterator[tuple[str, float]]:
    """Yield the elements of a part from `y` down, each with what it adds to the height."""
    name = f'<tspan font-weight="600">{escape(_cut(section.name, _NAME))}</tspan>{_count(section.blocks)}'
    yield f'<path d="M{_EDGE} {y:g}H{_WIDTH - _EDGE}" stroke="currentColor" stroke-opacity=".2"/>', 0
    yield f'<text x="{_EDGE}" y="{y + 16:g}">{name}</text>', 0
    weights = f"{units.count(sum(section.weights.values()))} weights"
    yield text(_WIDTH - _EDGE, y + 16, weights, 'text-anchor="end"'), _LINE + 4
    y += _LINE + 4
    if section.blocks:
        yield _strip(section.blocks, y), _STRIP + 4
        y += _STRIP + 4
    elif grown:
        yield titled(_stacked(_EDGE, y, _WIDTH - 2 * _EDGE, 8, section.weights), _percentages(section.weights)), 12
        y += 12
    for width in section.widths:
        yield _width(width, y, longest), _LINE
        y += _LINE


def _count(blocks: Sequence[Block]) -> str:
    """Return how many blocks there are, and were before the growth; empty without blocks."""
    before = len(blocks) - sum(block.new for block in blocks)
    return f", {before} → {len(blocks)} blocks" if before < len(blocks) else f", {before} blocks" if blocks else ""


def _strip(blocks: Sequence[Block], y: float) -> str:
    """Return a row of columns, one for each block; new ones have a line above."""
    pitch = min((_WIDTH - 2 * _EDGE) / len(blocks), 24.0)
    parts = []
    for number, block in enumerate(blocks):
        x, wide = _EDGE + number * pitch, max(pitch - 2, pitch * 0.7)
        column = _stacked(x, y + 4, wide, _STRIP - 4, block.weights, upright=True)
        line = f'<path d="M{x:.1f} {y + 1:g}h{wide:.1f}" stroke="currentColor" stroke-width="2"/>' if block.new else ""
        parts.append(titled(column + line, _tooltip(block)))
    return "".join(parts)


def _tooltip(block: Block) -> str:
    origin = f" from {block.source}" if block.source else ""
    return f"{block.path}{origin}{', added by growth' if block.new else ''}: {_percentages(block.weights)}"


def _percentages(weights: Mapping[Fate, int]) -> str:
    total = sum(weights.values()) or 1
    shares = [f"{100 * weights[fate] / total:.3g} % {fate}" for fate in _ORDER if weights.get(fate)]
    return f"{units.count(total)} weights, {', '.join(shares)}"


def _width(width: Width, y: float, longest: int) -> str:
    """Return a line on a set of channels: its kind, its size before and after, and a bar of the channels after.

    `longest` is the largest size in the picture. Lengths are logarithmic: there may be two heads and thousands of
    hidden units.
    """
    length = _BAR_LENGTH * math.log2(1 + width.after) / math.log2(1 + longest)
    sizes = f"{width.before:,} → {width.after:,}" if width.before != width.after else f"{width.after:,}"
    parts = [
        text(_EDGE + 8, y + 12, width.what + (f" ×{width.sets}" if width.sets > 1 else "")),
        text(_BAR_X - 8, y + 12, sizes, 'text-anchor="end"'),
    ]
    x, shares = _BAR_X, [(fill, count) for fill, count in _shares(width) if count]
    for fill, count in shares:
        part = length * count / width.after
        parts.append(_rectangle(x, y + 3, part, 10, fill))
        x += part
    words = ", ".join(f"{count:,} {_WORDS[fill]}" for fill, count in shares)
    return titled("".join(parts), f"{width.what}: {words}")


def _shares(width: Width) -> list[tuple[str, int]]:
    """Return how many channels after the growth have each fill."""
    return [("copied", width.before), ("copies", width.copies), (width.held, width.blank)]


def _stacked(
    x: float, y: float, wide: float, high: float, weights: Mapping[Fate, int], *, upright: bool = False
) -> str:
    """Return a bar with a part for each fate, from left to right, or from the bottom up if `upright`."""
    total, least = sum(weights.values()) or 1, _LEAST / (high if upright else wide)
    lengths = {fate: max(weights[fate] / total, least) for fate in _ORDER if weights.get(fate)}
    whole = sum(lengths.values())  # more than 1 if a part was made longer to be seen
    parts, at = [], 0.0
    for fate, length in lengths.items():
        share = length / whole
        if upright:
            parts.append(_rectangle(x, y + high * (1 - at - share), wide, high * share, fate))
        else:
            parts.append(_rectangle(x + wide * at, y, wide * share, high, fate))
        at += share
    return "".join(parts)


def _rectangle(x: float, y: float, wide: float, high: float, fill: str) -> str:
    edge = ' stroke="currentColor" stroke-width=".5"' if fill == "zero" else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0.5):.1f}" height="{max(high, 0.5):.1f}"'
    return f'<rect {place} fill="{_FILLS[fill]}"{edge}/>'
