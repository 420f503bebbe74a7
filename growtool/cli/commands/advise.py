"""`growtool advise`: plans that fit a budget."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, note, say
from growtool.cli.opening import CheckpointArgument, ModelArgsOption, ModelOption, PluginOption, open_all
from growtool.cli.tables import show_rows
from growtool.report import units

if TYPE_CHECKING:
    from growtool.workflows.advise.proposals import Advice, Proposal


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
    as_json: JsonOption = False,
) -> None:
    """Propose plans that grow a checkpoint within a budget: wider, deeper, and both.

    Each keeps the function, and comes with the size it leads to. Where none does within the budget, the smallest growth
    that does is shown. No weight is read; `growtool grow CHECKPOINT PLAN` does it.
    """
    from growtool.workflows.advise.budget import parse_budget

    # a mistake in the options is told before torch is imported
    wanted = parse_budget(budget)
    if output:
        _require_free(output)
    from growtool.workflows.advise.proposals import advise as find

    (source,) = open_all([checkpoint], model, model_args, counting=True)
    advice = find(source, wanted)
    # a file of weights that does not say its model: the plan has to
    source_keys = {"model": source.spec.architecture, "model_args": dict(source.spec.model_args)} if model else {}
    files = _write(output, advice, f"growtool advise {checkpoint} --budget {budget}", source_keys) if output else {}
    if as_json:
        emit_json(_document(advice, files, source_keys))
    else:
        _show(advice, files)
        _show_next(checkpoint, advice, files, plugin or [])


def _require_free(folder: Path) -> None:
    """Check that no file of a plan exists in the folder; raise PlanError if one does."""
    from growtool.errors import PlanError
    from growtool.workflows.advise.budget import AXES

    existing = [str(_file(folder, axis)) for axis in AXES if _file(folder, axis).exists()]
    if existing:
        raise PlanError(f"--output {folder}: found {', '.join(existing)}, expected none of them; choose another place")


def _file(folder: Path, axis: str) -> Path:
    return folder / f"{axis}.yaml"


def _write(folder: Path, advice: Advice, command: str, source_keys: dict[str, Any]) -> dict[str, Path]:
    """Write a file for each proposed plan, with the command that led to it in a comment; return axis -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for proposal in advice.proposals:
        heading = f"{command}: {_ratios(proposal, advice)}, {proposal.promise}"
        files[proposal.axis] = _file(folder, proposal.axis)
        files[proposal.axis].write_text(proposal.text(heading, source_keys), encoding="utf-8")
    return files


def _ratios(proposal: Proposal, advice: Advice) -> str:
    return (
        f"{units.ratio(proposal.size.macs, advice.source.macs)} MACs, "
        f"{units.ratio(proposal.size.params, advice.source.params)} parameters"
    )


def _document(advice: Advice, files: dict[str, Path], source_keys: dict[str, Any]) -> dict[str, Any]:
    def proposed(proposal: Proposal) -> dict[str, Any]:
        return {
            "axis": proposal.axis,
            "plan": {**source_keys, **proposal.plan},
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
    source = advice.source
    rows = [("source", units.count(source.macs), "", units.count(source.params), "", "", "")]
    rows += [
        (
            p.axis, units.count(p.size.macs), units.ratio(p.size.macs, source.macs), units.count(p.size.params),
            units.ratio(p.size.params, source.params), p.promise, escape(_plan_line(p)),
        )
        for p in (*advice.proposals, *advice.beyond)
    ]  # fmt: skip
    show_rows(("", ">MACs", ">ratio", ">parameters", ">ratio", "promise", "plan"), rows)
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


def _show_next(checkpoint: str, advice: Advice, files: dict[str, Path], plugins: list[Path]) -> None:
    """Print the command that carries a plan out, or how to write the plans into files."""
    if files:
        words = ["growtool", "grow", checkpoint, str(next(iter(files.values()))), "-o", "grown"]
        words += [word for plugin in plugins for word in ("--plugin", str(plugin))]
        note(f"grow by one of these plans:\n{shlex.join(words)}")
    elif advice.proposals:
        note("-o FOLDER writes these plans into files, which `growtool grow CHECKPOINT PLAN` takes")


def _plan_line(proposal: Proposal) -> str:
    scale = proposal.plan["target"]["scale"]
    parts = [
        f"{what} {scale[what]} by {proposal.plan[what]['operator']}" for what in ("width", "depth") if what in scale
    ]
    return ", ".join(parts)
