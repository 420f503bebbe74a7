"""`growtool list`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from growtool.cli.console import console, emit_json, new_table

app = typer.Typer(help="List the growth operators, or timm's model families.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]


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
