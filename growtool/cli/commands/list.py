"""`growtool list`: the operators and model families to choose from, and what has been proven on the families."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.tables import new_table, show, show_rows
from growtool.errors import PlanError, did_you_mean

if TYPE_CHECKING:
    from growtool.report.zoo import Outcome, Proof, TextFamily

app = typer.Typer(help="List the growth operators, or model families.", no_args_is_help=True)

PatternArgument = Annotated[
    str | None, typer.Argument(metavar="[PATTERN]", help="Only names that hold it, or match it: `zero`, `net2*`.")
]
# What the table calls a verdict, if not by its own name. `needless lossy`: outputs were equal, which was not promised.
_VERDICTS = {"needless lossy": "lossy", "exact up to eps": "eps", "refused": "no", "unmeasured": "?"}
_LONGEST = 24  # characters of an argument in the table of families
_LINE = 34  # characters of a line of arguments there


@app.command()
def operators(pattern: PatternArgument = None, as_json: JsonOption = False) -> None:
    """List the growth operators a plan can name, and what each promises."""
    from growtool.operators.table import OPERATORS

    found = [OPERATORS[name] for name in matching(OPERATORS, pattern, "operator")]
    if as_json:
        emit_json({"operators": [asdict(info) for info in found]})
        return
    rows = new_table("operator", "axis", "sizes", "same function", "what it does", tight=True)
    for column in rows.columns[:2]:
        column.no_wrap = True
    for info in found:
        rows.add_row(*map(escape, (info.name, info.axis, info.sizes, info.promise, info.summary)))
    show(rows)
    say("All about one: growtool explain OPERATOR.", style="dim")


@app.command()
def families(pattern: PatternArgument = None, as_json: JsonOption = False) -> None:
    """List model families of timm and transformers: whether they grow wider and deeper, and by which arguments.

    The proofs are those of docs/zoo.md and docs/transformers.md. A family without one grows as well: growtool names no
    architecture itself.
    """
    from growtool.library import built_in
    from growtool.report.zoo import read_text_families, read_zoo

    all_counts = {name: len(models) for name, models in built_in().models().items()}
    all_texts = {family.family: family for family in read_text_families()}
    names = matching(dict.fromkeys((*all_counts, *all_texts)), pattern, "family")
    counts = {name: all_counts[name] for name in names if name in all_counts}
    texts = {name: all_texts[name] for name in names if name in all_texts}
    zoo = read_zoo()
    proofs = {proof.family: proof for proof in zoo.families}
    if as_json:
        listed = {n: {"models": c, "proof": asdict(proofs[n]) if n in proofs else None} for n, c in counts.items()}
        transformers = {name: asdict(family) for name, family in texts.items()}
        emit_json({"families": listed, "transformers": transformers, "circumstances": dict(zoo.circumstances)})
        return
    if counts:
        _show_images(counts, proofs, zoo.circumstances)
    if texts:
        _show_texts(texts.values())


def _show_images(counts: Mapping[str, int], proofs: Mapping[str, Proof], circumstances: Mapping[str, str]) -> None:
    rows = ((name, str(count), *map(escape, _proven(proofs.get(name)))) for name, count in counts.items())
    show_rows(("family", ">models", "wider", "deeper", "by", "timm"), rows, tight=True)
    say(
        f"{sum(counts.values())} models in {len(counts)} families. Of the smallest model of each: what growing it "
        "wider and deeper keeps (exact, lossy; no: it cannot be scaled so), by which arguments, and whether timm "
        "alone loads the result (else `import growtool` first). Operators and proofs: --json, docs/zoo.md. Measured "
        f"on {circumstances['date']} with {circumstances['versions']}.",
        style="dim",
    )


def _show_texts(families: Iterable[TextFamily]) -> None:
    rows = ((family.family, *map(escape, _wrapped(_grown(family.width, family.depth)))) for family in families)
    show_rows(("transformers", "wider", "deeper", "by"), rows, tight=True)
    say(
        "Families of transformers, by small models of each: docs/transformers.md, with every type that has a language "
        "model. Lines are arguments of width, then of depth.",
        style="dim",
    )


def matching(names: Iterable[str], pattern: str | None, kind: str) -> list[str]:
    """Return the names that match a pattern: that hold it, or match it as a whole if it has wildcards.

    Args:
        names: the names there are.
        pattern: all names are returned without one.
        kind: what the names are of, for the message.

    Raises:
        PlanError: no name matches.
    """
    every = list(names)
    if pattern is None:
        return every
    has_wildcards = any(sign in pattern for sign in "*?[")
    matches = [name for name in every if (fnmatchcase(name, pattern) if has_wildcards else pattern in name)]
    if not matches:
        hint = did_you_mean(pattern.strip("*?"), every, count=3, cutoff=0.5)
        raise PlanError(f"PATTERN: no {kind} matches {pattern!r}{hint}")
    return matches


def _proven(proof: Proof | None) -> tuple[str, ...]:
    """Return the cells of a family: wider, deeper, by which arguments, and whether timm alone loads the result."""
    if proof is None:
        return "?", "?", "", ""
    grown = [outcome for outcome in (proof.width, proof.depth) if outcome.verdict != "refused"]
    native = "" if not grown else "yes" if all(outcome.native for outcome in grown) else "no"
    return (*_grown(proof.width, proof.depth), native)


def _wrapped(cells: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cells with long lines of the last one, which holds arguments, broken between two of them."""
    *verdicts, reached = cells
    return (*verdicts, "\n".join(part for line in reached.splitlines() for part in textwrap.wrap(line, _LINE)))


def _grown(*outcomes: Outcome) -> tuple[str, ...]:
    """Return the verdict of each growth, and one cell with the arguments of those that are not refused, a line each."""
    verdicts = (_VERDICTS.get(outcome.verdict, outcome.verdict) for outcome in outcomes)
    reached = (_reached(outcome) for outcome in outcomes if outcome.verdict != "refused")
    return (*verdicts, "\n".join(filter(None, reached)))


def _reached(outcome: Outcome) -> str:
    """Return the arguments that grew a model, or `model` if it became another registered one."""
    if outcome.how == "sibling":
        return "model"
    return ", ".join(dict.fromkeys(_short(name) for name in outcome.reached.split(", ")))


def _short(name: str) -> str:
    """Return the name of an argument, a long path into a configuration by its first and last part."""
    first, _, inner = name.partition(".")
    return f"{first}…{inner.rpartition('.')[2]}" if len(name) > _LONGEST and inner else name
