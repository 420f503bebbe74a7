"""`growtool explain`: all about one operator."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.text import Text

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.tables import show_rows
from growtool.errors import PlanError, did_you_mean

# The legend of the formulas.
_LETTERS = (
    "W is a weight, W' what it becomes; h and h' are the channels that it reads or writes. E says which old channel "
    "each new one copies, R is a left inverse of E, C takes off the mean."
)


def explain(
    operator: Annotated[str, typer.Argument(help="Its name, as `growtool list operators` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Explain a growth operator: what it does and keeps, its formula, options, a plan, and where it was published."""
    from growtool.operators.explain import explain as explanation_of
    from growtool.operators.table import OPERATORS

    if operator not in OPERATORS:
        hint = did_you_mean(operator, OPERATORS, count=3, cutoff=0.5) or f", one of {', '.join(OPERATORS)}"
        raise PlanError(f"OPERATOR: found {operator!r}, expected the name of an operator{hint}")
    found = explanation_of(operator)
    if as_json:
        emit_json(asdict(found))
        return
    info = found.info
    say(f"[bold]{info.name}[/] ({info.axis}): {escape(info.summary)}\n")
    facts = {
        "same function": info.promise, "sizes": info.sizes, "use it for": info.when, "formula": info.formula,
        "needs": info.needs, "source": info.source,
    }  # fmt: skip
    for label, text in facts.items():
        say(Text.assemble((label, "bold"), f": {text}"))
    say(_LETTERS, style="dim")
    for paragraph in found.prose.split("\n\n"):
        say(Text("\n" + " ".join(paragraph.split())))
    if found.options:
        told = ((o.name, "required" if o.default is None else o.default, o.meaning) for o in found.options)
        say("")
        show_rows(("option", "default", "meaning"), (map(escape, cells) for cells in told), tight=True)
    if found.measured:
        say("")
        measured = ((family, escape(kept)) for family, kept in found.measured.items())
        show_rows(("family", "measured on a tiny random model"), measured, tight=True)
        say("Lossy: the largest difference of the logits, relative to the largest logit. Random numbers are hard on a "
            "lossy operator; what your checkpoint loses is what `growtool grow` reports.", style="dim")  # fmt: skip
    say("\n[bold]an example plan[/]\n")
    say(Text(found.example.rstrip()), hanging=2)  # a line that continues one of YAML has to be indented, to be YAML
