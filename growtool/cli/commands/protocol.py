"""`growtool protocol`: the published training of MixtureGrowth from one file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.opening import PluginOption
from growtool.cli.tables import show_rows
from growtool.cli.training import is_main, note_once, shown_progress


def protocol(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The protocol, a YAML file: model, member_args, train.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new folder.", show_default="FILE's name")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it was interrupted.")] = False,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train two members from scratch as templates, grow them onto the diagonal of a larger model, train that.

    The published way of MixtureGrowth (arXiv 2311.04251).
    """
    from growtool.workflows.protocol.file import load_protocol

    loaded, out = load_protocol(file), output or Path(file.stem)  # a mistake in it is told before torch is imported
    from growtool.workflows.protocol.run import run_protocol

    with shown_progress() as progress:
        steps = run_protocol(loaded, out, resume=resume, progress=progress, told=note_once)
    if not is_main():
        return
    if as_json:
        emit_json({"output": str(out), "steps": [asdict(step) for step in steps]})
        return
    rows = (
        (s.name, f"{s.parameters:,}", str(s.steps), f"{s.seconds:.0f}", f"{s.before:.2f} %", f"{s.after:.2f} %")
        for s in steps
    )
    show_rows(("", ">parameters", ">updates", ">seconds", ">top-1 before", ">after"), rows)
    say(f"written: {escape(str(out / 'grown' / 'run'))}")
