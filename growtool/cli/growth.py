"""What a growth will do, and what it has done, printed for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from growtool.cli.console import note, say
from growtool.cli.tables import show_rows
from growtool.report import units

if TYPE_CHECKING:
    from growtool.growing import Grown, Summary
    from growtool.recipe import Recipe

_MEANING = {
    "exact": "the same function",
    "exact up to eps": "the same function but for the eps of norms",
    "lossy": "not the same function",
}


def show_plan(recipe: Recipe, summary: Summary) -> None:
    """Print sizes before and after, what grows and how, and the promise."""
    before, after = summary.before, summary.after
    title = f"{recipe.source.name} -> {recipe.target.architecture}"
    say(f"[bold]{escape(title)}[/]")
    sizes = (
        ("parameters", before.parameters, after.parameters, units.count),
        ("MACs", before.macs, after.macs, units.count),
        ("FLOPs (2 MACs)", 2 * before.macs, 2 * after.macs, units.count),
        ("weights file", before.bytes, after.bytes, units.size),
    )
    rows = ((label, in_words(a), in_words(b), units.ratio(b, a)) for label, a, b, in_words in sizes)
    show_rows(("", ">before", ">after", ">ratio"), rows)
    loading = [f"{recipe.library.name} {change} while loading" for change in recipe.source.changes]
    for line in (*loading, *recipe.choices, *summary.growth()):
        say(f"  {escape(line)}", hanging=2)
    tensors = f"  {summary.grown} tensors grown, {summary.copied} copied, {summary.zeroed} zeroed"
    whole = "; what sees images or holds initial values takes whole models in memory" if summary.whole_models else ""
    say(f"{tensors}; the largest takes {units.size(summary.largest_bytes)}{whole}")
    how = f"with {recipe.needed_import} imported" if recipe.needed_import else "as is"
    say(f"  loads in {recipe.library.name}: {how}{' once exported (growtool export)' if recipe.in_templates else ''}")
    colour = "green" if summary.promise == "exact" else "yellow"
    meaning = _MEANING[summary.promise]
    say(f"promise: [{colour}]{summary.promise}[/] ({meaning})")
    for reason in summary.reasons:
        say(f"  {escape(reason)}", hanging=2)


def show_result(grown: Grown, recipe: Recipe) -> None:
    """Print what was measured, where the result is, and how to go on."""
    from growtool.checkpoint.folder import loading_line, publishing_line

    if grown.proof is None:
        say("[yellow]not verified[/]: the plan says verify: false")
    else:
        say(f"verified: {escape(str(grown.proof))}")
    if grown.optimizer is not None:
        o = grown.optimizer
        how = f"approximate, {o.approximate}" if o.approximate else "as the grown model would have gathered them"
        say(
            f"optimizer: moments of {o.carried} parameters grown ({how}), {o.fresh} start without; use them with "
            "`growtool finetune --carry-optimizer`",
        )
    say(f"written: {escape(str(grown.out))}")
    note(f"load it: {loading_line(grown.out)}")
    if recipe.source.origin is not None:
        note(f"publish it: {publishing_line(grown.out)}")
