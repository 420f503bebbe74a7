"""Template banks and coefficients, printed as tables with small pictures of block characters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from growtool.cli.console import say
from growtool.cli.tables import new_table, show

if TYPE_CHECKING:
    from growtool.templates.measures import BankReport

_BARS = " ▁▂▃▄▅▆▇█"
_SHADES = " ░▒▓█"
_SHOWN_BARS, _SHOWN_SHADES = 8, 48
_SHOWN_LAYERS = 8  # also how many blocks of a layer are shown


def show_banks(name: str, reports: Sequence[BankReport]) -> None:
    """Print a table with a row for each bank, and how many numbers templates save."""
    kinds = ", ".join(dict.fromkeys(report.kind for report in reports))
    say(f"\n[bold]{escape(name)}[/]: {kinds} banks")
    table = new_table("bank", ">layers", ">templ.", "spectrum", ">cosine", ">cond.", ">error", ">in span", ">stored")
    table.collapse_padding = True
    for column in table.columns[1:]:
        column.no_wrap = True  # names give way on a narrow terminal, figures do not
    for report in reports:
        table.add_row(
            escape(report.name),
            str(len(report.members)),
            str(report.templates),
            spectrum_picture(report.spectrum),
            "-" if report.mean_cosine is None else f"{report.mean_cosine:.3f}",
            f"{report.condition:.3g}" if math.isfinite(report.condition) else "inf",
            "-" if report.error is None else f"{report.error:.2g}",
            "-" if report.in_span is None else f"{report.in_span:.0%}",
            f"{report.stored / report.dense:.1%}",
        )
    show(table)
    cosine = "cosine: mean between layers" + ("" if kinds == "raw" else " as the bank holds them")
    total = [sum(getattr(report, side) for report in reports) for side in ("stored", "dense")]
    say(
        f"{total[0]:,} numbers stored for {total[1]:,} dense. templ.: templates; {cosine}; in span: how much of a new "
        "block's squared norm comes from trained layers, before any growth.",
        style="dim",
    )


def show_coefficients(reports: Sequence[BankReport], coefficients: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Print which templates each layer uses: a row for each block, a shade for each template.

    Args:
        reports: the banks.
        coefficients: layer -> for each block of it, its coefficients over the templates.
    """
    for report in reports:
        say(f"\n[bold]{escape(report.name)}[/]: {report.templates} templates")
        table = new_table("layer", ">block", "coefficients", ">largest", ">norm")
        for member in report.members[:_SHOWN_LAYERS]:
            for block, vector in enumerate(coefficients[member][:_SHOWN_LAYERS]):
                size, largest = max((abs(value), t) for t, value in enumerate(vector))
                table.add_row(
                    escape(member) if block == 0 else "",
                    str(block),
                    shades(vector),
                    f"{math.copysign(size, vector[largest]):+.3f} of {largest}",
                    f"{math.hypot(*vector):.3f}",
                )
            if (more := len(coefficients[member]) - _SHOWN_LAYERS) > 0:
                table.add_row("", "", f"and {more} more blocks", "", "")
        show(table)
        rest = len(report.members) - _SHOWN_LAYERS
        if rest > 0:
            say(f"and {rest} more layers; all of them with --json", style="dim")


def spectrum_picture(energies: Sequence[float]) -> str:
    """Return the first energies as bars."""
    return _picture(energies, _BARS)[:_SHOWN_BARS]


def shades(vector: Sequence[float]) -> str:
    """Return the first absolute values as shades."""
    picture = _picture([abs(value) for value in vector], _SHADES)
    return f"|{picture[:_SHOWN_SHADES]}|" + ("..." if len(vector) > _SHOWN_SHADES else "")


def _picture(values: Sequence[float], levels: str) -> str:
    """Return a character for each value, by its size relative to the largest of all; negative ones count as zero."""
    largest = max(values, default=0.0) or 1.0
    return "".join(levels[math.ceil((len(levels) - 1) * max(value, 0.0) / largest)] for value in values)
