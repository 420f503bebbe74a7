"""The picture of a checkpoint: its parts from input to output, their blocks and widths, and what growth made of it."""

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
_BAR = (300, 170)  # where the bars of widths begin, and how long the longest is
_TITLE, _NAME = 50, 38  # letters that have room
_LINE, _STRIP = 18, 26  # heights of a line, and of a block
_FILLS: Mapping[str, str] = {
    "copied": "#1f5a94", "copies": "#7fb3e0", "mixed": "#e69f00", "new": "#009e73", "zero": "url(#growtool-zero)",
}  # fmt: skip
_TOLD: Mapping[str, str] = {
    "copied": "the source's", "copies": "copies", "mixed": "mixed", "new": "new", "zero": "zero",
}  # fmt: skip
_READING = "Beside numbers: channels, on a logarithmic scale. Columns and whole lines: weights."
_LEAST = 3  # pixels of a column or bar that whatever there is takes at least, to be seen
_HATCH = (
    '<pattern id="growtool-zero" width="4" height="4" patternUnits="userSpaceOnUse">'
    '<path d="M0 4L4 0" stroke="currentColor" stroke-width="1"/></pattern>'
)
_ORDER: tuple[Fate, ...] = ("copied", "mixed", "new", "zero")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A model to draw.

    Attributes:
        title: what it is.
        figures: lines below the title, such as its size.
        sections: its parts.
        grown: whether they tell what growth did.
    """

    title: str
    figures: Sequence[str]
    sections: Sequence[Section]
    grown: bool


def of_growth(report: Mapping[str, Any], trace: Trace, model: nn.Module, where: str) -> Drawn:
    """A model that grew, as a report has it.

    Args:
        report: the content of `growth.json`.
        trace: of the grown model.
        model: the grown model, with or without weights.
        where: the report's place, for messages.

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
        told = [", ".join(figures), f"promised: {report['promise']['kind']}"]
        return Drawn(title, told, sections(trace, _parameters(model), report), grown=True)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: found no report of how this very model grew ({type(error).__name__}: {error}), expected what "
            "this version of growtool writes; grow it anew, or remove the file to draw the model as it is"
        ) from error


def of_checkpoint(title: str, figures: Sequence[str], trace: Trace, model: nn.Module) -> Drawn:
    """A model as it is, with lines of figures below its title."""
    return Drawn(title, figures, sections(trace, _parameters(model), None), grown=False)


def _parameters(model: nn.Module) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def to_svg(*models: Drawn) -> str:
    """The picture as an SVG element; of several models side by side."""
    drawn = [_model(model) for model in models]
    parts = [f'<g transform="translate({n * _WIDTH} 0)">{"".join(found)}</g>' for n, (found, _) in enumerate(drawn)]
    height = max(height for _, height in drawn)
    label = " and ".join(model.title for model in models)
    return svg(_WIDTH * len(models), height, label, [f"<defs>{_HATCH}</defs>", *parts])


def _model(model: Drawn) -> tuple[list[str], int]:
    """The elements of one model, and how high they are."""
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
    parts.append(text(_EDGE, y + 6, _READING, 'font-size="10" opacity=".7"'))
    return parts, math.ceil(y + 14)


def _cut(words: str, letters: int) -> str:
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _used(sections: Sequence[Section]) -> list[str]:
    """What occurs in the picture, in the order of the legend."""
    found: set[str] = {fate for section in sections for fate, count in section.weights.items() if count}
    for width in (width for section in sections for width in section.widths):
        found |= {name for name, count in _shares(width) if count}
    return [name for name in _FILLS if name in found]


def _legend(y: float, used: Sequence[str], *, added: bool) -> Iterator[str]:
    x = float(_EDGE)
    for name in used:
        yield _rectangle(x, y - 9, 12, 10, name)
        yield text(x + 16, y, _TOLD[name], 'font-size="11"')
        x += 30 + 6 * len(_TOLD[name])
    if added:
        yield f'<path d="M{x:g} {y - 8:g}h12" stroke="currentColor" stroke-width="2"/>'
        yield text(x + 16, y, "added block", 'font-size="11"')


def _section(section: Section, y: float, longest: int, *, grown: bool) -> Iterator[tuple[str, float]]:
    """The elements of a part, each with what it adds to the height."""
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
    """How many blocks there are, and were."""
    before = len(blocks) - sum(block.new for block in blocks)
    return f", {before} → {len(blocks)} blocks" if before < len(blocks) else f", {before} blocks" if blocks else ""


def _strip(blocks: Sequence[Block], y: float) -> str:
    """A column for each block, new ones with a line above."""
    each = min((_WIDTH - 2 * _EDGE) / len(blocks), 24.0)
    parts = []
    for number, block in enumerate(blocks):
        x, wide = _EDGE + number * each, max(each - 2, each * 0.7)
        column = _stacked(x, y + 4, wide, _STRIP - 4, block.weights, upright=True)
        line = f'<path d="M{x:.1f} {y + 1:g}h{wide:.1f}" stroke="currentColor" stroke-width="2"/>' if block.new else ""
        parts.append(titled(column + line, _told(block)))
    return "".join(parts)


def _told(block: Block) -> str:
    origin = f" from {block.source}" if block.source else ""
    return f"{block.path}{origin}{', added by growth' if block.new else ''}: {_percentages(block.weights)}"


def _percentages(weights: Mapping[Fate, int]) -> str:
    total = sum(weights.values()) or 1
    found = [f"{100 * weights[fate] / total:.3g} % {fate}" for fate in _ORDER if weights.get(fate)]
    return f"{units.count(total)} weights, {', '.join(found)}"


def _width(width: Width, y: float, longest: int) -> str:
    """A line: what, how many before and after, and a bar of the channels after."""
    x, most = _BAR
    length = most * math.log2(1 + width.after) / math.log2(1 + longest)
    sizes = f"{width.before:,} → {width.after:,}" if width.before != width.after else f"{width.after:,}"
    parts = [
        text(_EDGE + 8, y + 12, width.what + (f" ×{width.sets}" if width.sets > 1 else "")),
        text(x - 8, y + 12, sizes, 'text-anchor="end"'),
    ]
    for name, count in _shares(width):
        if count:
            part = length * count / width.after
            parts.append(_rectangle(x, y + 3, part, 10, name))
            x += part  # type: ignore[assignment]
    shares = ", ".join(f"{count:,} {_TOLD[name]}" for name, count in _shares(width) if count)
    return titled("".join(parts), f"{width.what}: {shares}")


def _shares(width: Width) -> list[tuple[str, int]]:
    """The channels after, by what they are."""
    return [("copied", width.before), ("copies", width.copies), (width.held, width.blank)]


def _stacked(
    x: float, y: float, wide: float, high: float, weights: Mapping[Fate, int], *, upright: bool = False
) -> str:
    """A bar with a part for each fate; upright, the source's at the bottom."""
    total, parts, at = sum(weights.values()) or 1, [], 0.0
    seen = {
        fate: max(weights[fate] / total, _LEAST / (high if upright else wide)) for fate in _ORDER if weights.get(fate)
    }
    for fate, least in seen.items():
        share = least / sum(seen.values())
        if upright:
            parts.append(_rectangle(x, y + high * (1 - at - share), wide, high * share, fate))
        else:
            parts.append(_rectangle(x + wide * at, y, wide * share, high, fate))
        at += share
    return "".join(parts)


def _rectangle(x: float, y: float, wide: float, high: float, name: str) -> str:
    edge = ' stroke="currentColor" stroke-width=".5"' if name == "zero" else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(wide, 0.5):.1f}" height="{max(high, 0.5):.1f}"'
    return f'<rect {place} fill="{_FILLS[name]}"{edge}/>'
