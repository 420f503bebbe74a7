"""`growtool advise`: plans that fit a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import emit_json, say
from growtool.cli.opening import CheckpointArgument, ModelArgsOption, ModelOption, PluginOption, open_all
from growtool.cli.tables import new_table, show
from growtool.report import units

if TYPE_CHECKING:
    from growtool.advise import Advice, Proposal


def advise(
    checkpoint: CheckpointArgument,
    budget: Annotated[
        str, typer.Option("--budget", metavar="FACTORx-UNIT", help="How much larger: 2x-macs, 1.5x-params.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Write the plans here, one file each.")
    ] = None,
    plugin: PluginOption = None,
    model: ModelOption = None,
    model_args: ModelArgsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")] = False,
) -> None:
    """Propose plans that grow a checkpoint within a budget: wider, deeper, and both.

    Each keeps the function, and comes with the size it leads to. Where none does within the budget, the smallest growth
    that does is shown. No weight is read; `growtool grow CHECKPOINT PLAN` does it.
    """
    from growtool.advise import advise as find
    from growtool.advise import parse_budget

    wanted = parse_budget(budget)
    if output:
        _require_free(output)
    (source,) = open_all([checkpoint], model, model_args)
    advice = find(source, wanted)
    files = _write(output, advice, f"growtool advise {checkpoint} --budget {budget}") if output else {}
    if as_json:
        emit_json(_document(advice, files))
    else:
        _show(advice, files)


def _require_free(folder: Path) -> None:
    """Raises PlanError where a plan's file is there already."""
    from growtool.advise import AXES
    from growtool.errors import PlanError

    existing = [str(path) for path in (_file(folder, axis) for axis in AXES) if path.exists()]
    if existing:
        raise PlanError(f"--output {folder}: found {', '.join(existing)}, expected none of them; choose another place")


def _file(folder: Path, axis: str) -> Path:
    return folder / f"{axis}.yaml"


def _write(folder: Path, advice: Advice, command: str) -> dict[str, Path]:
    """Axis -> the file of its plan."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for proposal in advice.proposals:
        heading = f"{command}: {_ratios(proposal, advice)}, {proposal.promise}"
        files[proposal.axis] = _file(folder, proposal.axis)
        files[proposal.axis].write_text(proposal.text(heading), encoding="utf-8")
    return files


def _ratios(proposal: Proposal, advice: Advice) -> str:
    return (
        f"{units.ratio(proposal.size.macs, advice.source.macs)} MACs, "
        f"{units.ratio(proposal.size.params, advice.source.params)} parameters"
    )


def _document(advice: Advice, files: dict[str, Path]) -> dict[str, Any]:
    def proposed(proposal: Proposal) -> dict[str, Any]:
        return {
            "axis": proposal.axis,
            "plan": dict(proposal.plan),
            "macs": proposal.size.macs,
            "params": proposal.size.params,
            "promise": {"kind": proposal.promise, "reasons": list(proposal.reasons)},
            "guideline": proposal.guideline,
            "file": str(files[proposal.axis]) if proposal.axis in files else None,
        }

    return {
        "source": {"macs": advice.source.macs, "params": advice.source.params},
        "proposals": [proposed(proposal) for proposal in advice.proposals],
        "beyond": [proposed(proposal) for proposal in advice.beyond],
        "refused": dict(advice.refused),
    }


def _show(advice: Advice, files: dict[str, Path]) -> None:
    table = new_table("", ">MACs", ">ratio", ">parameters", ">ratio", "promise", "plan")
    source = advice.source
    table.add_row("source", units.count(source.macs), "", units.count(source.params), "", "", "")
    for p in (*advice.proposals, *advice.beyond):
        table.add_row(
            p.axis, units.count(p.size.macs), units.ratio(p.size.macs, source.macs), units.count(p.size.params),
            units.ratio(p.size.params, source.params), p.promise, escape(_plan_line(p)),
        )  # fmt: skip
    show(table)
    for p in advice.proposals:
        say(f"[bold]{p.axis}[/]: {escape(p.guideline)}")
        for reason in p.reasons:
            say(f"  {p.promise}: {escape(reason)}")
        if p.axis in files:
            say(f"  written: {escape(str(files[p.axis]))}")
    smallest = {p.axis: p for p in advice.beyond}
    for axis, why in advice.refused.items():
        remedy = f"; the smallest that does is shown, {_ratios(smallest[axis], advice)}" if axis in smallest else ""
        say(f"[bold]{axis}[/]: no plan: {escape(why + remedy)}")


def _plan_line(proposal: Proposal) -> str:
    scale = proposal.plan["target"]["scale"]
    parts = [
        f"{what} {scale[what]} by {proposal.plan[what]['operator']}" for what in ("width", "depth") if what in scale
    ]
    return ", ".join(parts)
