"""`growtool list`: what there is to choose from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from growtool.cli.console import console, emit_json, new_table

app = typer.Typer(help="List the growth operators, or timm's model families.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]


@app.command()
def operators(as_json: JsonOption = False) -> None:
    """List the growth operators a plan can name, and what each promises."""
    from growtool.operators.table import OPERATORS

    if as_json:
        emit_json({"operators": [asdict(info) for info in OPERATORS.values()]})
        return
    rows = new_table("operator", "axis", "what it does", "same function", "source")
    for info in OPERATORS.values():
        rows.add_row(*map(escape, (info.name, info.axis, info.summary, info.promise, info.source)))
    console().print(rows)


@app.command()
def families(as_json: JsonOption = False) -> None:
    """List timm's model families with the number of models each has; growtool names none of them itself."""
    import timm

    counts = {name: len(timm.list_models(module=name)) for name in timm.list_modules()}
    if as_json:
        emit_json({"families": counts})
        return
    rows = new_table("family", ">models")
    for name, count in counts.items():
        rows.add_row(name, str(count))
    console().print(rows)
    console().print(f"{sum(counts.values())} models in {len(counts)} families", style="dim")
