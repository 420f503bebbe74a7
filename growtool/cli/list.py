"""`growtool list`: what there is to choose from, and what has been proven on it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from growtool.cli.console import emit_json, new_table, say, show

if TYPE_CHECKING:
    from growtool.report.zoo import Proof

app = typer.Typer(help="List the growth operators, or timm's model families.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]


@app.command()
def operators(as_json: JsonOption = False) -> None:
    """List the growth operators a plan can name, and what each promises."""
    from growtool.operators.table import OPERATORS

    if as_json:
        emit_json({"operators": [asdict(info) for info in OPERATORS.values()]})
        return
    rows = new_table("operator", "axis", "what it does", "same function")
    for column in rows.columns[:2]:
        column.no_wrap = True
    for info in OPERATORS.values():
        rows.add_row(*map(escape, (info.name, info.axis, info.summary, info.promise)))
    show(rows)
    say("What each needs, and where it was published: --json, or docs/operators.md.", style="dim")


@app.command()
def families(as_json: JsonOption = False) -> None:
    """List timm's model families: how many models each has, and what growing one of them has been proven to keep.

    The proofs are those of docs/zoo.md. A family without one grows as well: growtool names no architecture itself.
    """
    from growtool.report.zoo import count_models, read_zoo

    counts, zoo = count_models(), read_zoo()
    proofs = {proof.family: proof for proof in zoo.families}
    if as_json:
        listed = {n: {"models": c, "proof": asdict(proofs[n]) if n in proofs else None} for n, c in counts.items()}
        emit_json({"families": listed, "circumstances": dict(zoo.circumstances)})
        return
    rows = new_table("family", ">models", "permuted", "width", "depth", "reached by")
    for column in rows.columns[:-1]:
        column.no_wrap = True
    for name, count in counts.items():
        rows.add_row(name, str(count), *map(escape, _proven(proofs.get(name))))
    show(rows)
    say(
        f"{sum(counts.values())} models in {len(counts)} families. Of each family's smallest model: by how much its "
        "outputs changed when all widths that may grow were put in another order; what growing it keeps; the arguments "
        f"that grow it. Measured on {zoo.circumstances['date']} with {zoo.circumstances['versions']}.",
        style="dim",
    )


def _proven(proof: Proof | None) -> tuple[str, ...]:
    if proof is None:
        return "", "", "", ""
    permuted = "-" if proof.permutation is None else f"{proof.permutation:.0e}"
    reached = "; ".join(o.reached for o in (proof.width, proof.depth) if o.reached)
    said = (outcome.verdict.removeprefix("needless ") for outcome in (proof.width, proof.depth))  # as plans say it
    return (permuted, *said, reached)
