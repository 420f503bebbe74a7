"""`growtool schedule`, progressive growth from one file; and `growtool report`, pictures of trainings."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from growtool.cli.console import emit_json, note, say
from growtool.cli.opening import PluginOption
from growtool.cli.pictures import require_places
from growtool.cli.tables import show_figures, show_rows
from growtool.cli.training import is_main, note_once, shown_progress


def schedule(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The schedule, a YAML file: checkpoint, train, stages.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the stages.", show_default="FILE's name"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it was interrupted.")] = False,
    plugin: PluginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the stages as one JSON document on stdout.")] = False,
) -> None:
    """Train, grow, train, grow again: the stages of a file, each starting from the one before.

    Each stage has its budget in epochs, steps or MACs, and `rate` spans one course of the learning rate over all;
    schedule.json says what each spent and came to.
    """
    from growtool.workflows.schedule.file import load_schedule

    loaded, out = load_schedule(file), output or Path(file.stem)  # a mistake in it is told before torch is imported
    from growtool.checkpoint.folder import loading_line
    from growtool.report import units
    from growtool.workflows.schedule.run import run_schedule

    with shown_progress() as progress:
        records = run_schedule(loaded, out, resume=resume, progress=progress, told=note_once)
    if not is_main():
        return
    if as_json:
        emit_json({"output": str(out), "stages": [asdict(record) for record in records]})
        return
    rows = (
        (
            f"{record.number}", record.kind, f"{record.parameters:,}", f"{record.steps:,}" if record.steps else "-",
            units.count(record.macs) if record.macs else "-", f"{record.seconds:.0f}",
            f"{record.top1:.2f} %" if record.top1 is not None else "-",
        )
        for record in records
    )  # fmt: skip
    show_rows(("stage", "", ">parameters", ">updates", ">MACs", ">seconds", ">top-1"), rows)
    if records:
        note(f"load it: {loading_line(out / records[-1].checkpoint)}")


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or schedules, complete or not.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The page, one HTML file that needs no network.",
            show_default="RUN.html beside the run; report.html here for several",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="The same charts as PNG (needs matplotlib).", show_default=False)
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Accuracy against updates alone, as SVG.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points as one JSON document on stdout.")] = False,
) -> None:
    """Draw accuracy and loss against updates, MACs and time, several runs in one picture, growth marked."""
    from growtool.checkpoint.staging import write_text
    from growtool.report.chart import to_svg, write_png
    from growtool.report.page import html_page
    from growtool.workflows.schedule.curves import curve_charts, curve_table, read_curve, told_apart

    page = output or _page_of(runs)
    require_places(("--output", page, ()), ("--svg", svg, ()), ("--png", png, (".png",)))
    curves = told_apart([read_curve(run) for run in runs], runs)
    charts, table = curve_charts(curves), curve_table(curves)
    note = "Points are ends of epochs. MACs: forward, twice as many for backward, and a teacher's forward."
    if png is not None:
        write_png(charts, png)  # before the page, as it fails without matplotlib
    title, figures = ", ".join(curve.name for curve in curves), [to_svg(chart) for chart in charts]
    write_text(page, html_page(title, figures=figures, tables=[table], notes=[note]))
    if svg is not None:
        write_text(svg, to_svg(charts[0]) + "\n")
    if as_json:
        emit_json({"curves": [asdict(curve) for curve in curves], "output": str(page)})
        return
    show_figures(table)
    written = ", ".join(str(path) for path in (page, png, svg) if path is not None)
    say(f"written: {escape(written)}")


def _page_of(runs: list[Path]) -> Path:
    """Return the default page: beside a run, in the working folder for several."""
    if len(runs) > 1:
        return Path("report.html")
    run = runs[0] if runs[0].name else runs[0].resolve()
    return run.with_name(f"{run.name}.html")
