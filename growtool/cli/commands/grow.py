"""`growtool grow`: show what a plan will do, do it, and show the proof."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from growtool.cli.console import emit_json, note, progress, say
from growtool.cli.growth import show_plan, show_result
from growtool.cli.opening import CheckpointArgument, ModelArgsOption, ModelOption, PluginOption
from growtool.cli.pictures import HTML, require_places
from growtool.cli.planning import asked_plan, overridden
from growtool.errors import PlanError

if TYPE_CHECKING:
    from growtool.checkpoint import Checkpoint
    from growtool.finetune.optimizer_state import OptimizerState
    from growtool.growing import Grown, Summary
    from growtool.plan import LoadedPlan
    from growtool.recipe import Recipe


def grow(
    checkpoint: CheckpointArgument,
    plan: Annotated[
        Path | None,
        typer.Argument(metavar="PLAN", help="The growth plan, a YAML file; or say it by --width and --depth."),
    ] = None,
    width: Annotated[
        str | None, typer.Option(metavar="FACTOR", help="Without PLAN: a factor for every width, such as 2 or 4/3.")
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR", help="Without PLAN: a factor for the blocks of every stage, or their numbers: 2,2,3,2."
        ),
    ] = None,
    operator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Without PLAN: a width or a depth operator; repeatable. Default: the first that keeps the function.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder or .safetensors file to write.", show_default="NAME-grown",
            rich_help_panel="Output",
        ),
    ] = None,
    model: ModelOption = None,
    model_args: ModelArgsOption = None,
    plugin: PluginOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and what it promises; write nothing.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of images for what has to see some; overrides the plan's data.path."),
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="Estimate BatchNorm's running statistics anew from the images.")
    ] = False,
    optimizer_state: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Fine-tuning run whose optimizer grows too. Default: CHECKPOINT, if it has a state."
        ),
    ] = None,
    no_optimizer_state: Annotated[
        bool, typer.Option("--no-optimizer-state", help="Leave the optimizer's state behind.")
    ] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the plan's seed.")] = None,
    allow_lossy: Annotated[
        bool,
        typer.Option("--allow-lossy", help="Grow although the operators, which keep the function elsewhere, lose it."),
    ] = False,
    device: Annotated[str, typer.Option(help="Runs both models for the proof: auto, cpu, cuda or cuda:N.")] = "cpu",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output.", rich_help_panel="Output")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page (.html) with the figures, promise and proof, and a picture.",
            show_default=False, rich_help_panel="Output",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON document on stdout.", rich_help_panel="Output")
    ] = False,
) -> None:  # fmt: skip
    """Grow a checkpoint by a plan, and prove that the result keeps what the plan promises.

    The result is an ordinary timm folder, with the plan that was carried out beside it. Weights are read and written
    tensor by tensor; nothing appears under the output's name before it is complete and checked.

    A plan that loses the function by accident is refused (exit code 1, for --dry-run too, once all has been shown).
    """
    if optimizer_state is not None and no_optimizer_state:
        raise PlanError(f"--optimizer-state {optimizer_state}: found with --no-optimizer-state, expected one of them")
    require_places(("--report", report, HTML))
    asked = asked_plan(plan, width, depth, operator or (), data)
    loaded = overridden(
        asked, model=model, model_args=model_args or (), data=data, recalibrate=recalibrate, seed=seed,
        allow_lossy=allow_lossy,
    )  # fmt: skip
    # a mistake in the plan or the options is told before torch is imported
    from growtool.checkpoint.folder import refuse_existing
    from growtool.finetune.parallel.device import resolve_device
    from growtool.growing import grow as execute
    from growtool.growing import summarise
    from growtool.growing.source import open_planned
    from growtool.recipe.choosing.consent import require_consent

    proof_device, source = resolve_device(device), open_planned(checkpoint, [loaded.plan], counting=dry_run)
    out = output or Path(f"{source.label}-grown")
    # A refused output does not end the command yet: what is wrong with the plan is told together with it.
    errors: list[PlanError] = []
    if not dry_run:
        with _kept(errors):
            refuse_existing(out, force=force)
    if not (dry_run or errors):
        source.hash_ahead()  # while models are built and traced
    recipe = _resolved(loaded, source, errors)
    summary = summarise(recipe)
    if not (as_json or errors):
        show_plan(recipe, summary)
    with _kept(errors), loaded.placing_problems():
        require_consent(recipe)
    refusal = _joined(errors) if errors else None
    if dry_run and as_json:
        reason = refusal.problems[0] if refusal else None
        emit_json(summary.to_json() | {"target": _target(recipe), "choices": list(recipe.choices), "refused": reason})
    if dry_run and report is not None:
        _write_page(report, recipe, loaded, summary, None, quiet=as_json)
    if refusal:
        raise refusal
    if dry_run:
        return
    for read in filter(None, (recipe.source, recipe.second)):
        read.fetch()  # here, while no other bar is on the terminal, so that the download has one
    state = None if no_optimizer_state else _optimizer(optimizer_state, recipe)
    with progress("growing", summary.after.bytes, of_bytes=True) as advance:
        grown = execute(
            recipe,
            loaded,
            out,
            force=force,
            summary=summary,
            optimizer=state,
            device=proof_device,
            advance=advance,
            told=note,
        )
    if as_json:
        emit_json({"output": str(out), "choices": list(recipe.choices), **json.loads(grown.report)})
    else:
        show_result(grown, recipe)
    if report is not None:
        _write_page(report, recipe, loaded, summary, grown, quiet=as_json)


def _resolved(loaded: LoadedPlan, source: Checkpoint, errors: list[PlanError]) -> Recipe:
    """Return the recipe of a plan; raise its problems after those of earlier errors."""
    from growtool.recipe import resolve

    try:
        with loaded.placing_problems():
            return resolve(loaded.plan, source)
    except PlanError as error:
        raise _joined([*errors, error]) from error


def _write_page(
    path: Path, recipe: Recipe, loaded: LoadedPlan, summary: Summary, grown: Grown | None, *, quiet: bool
) -> None:
    """Write the page that `--report` asks for; `grown` is None after a dry run."""
    from growtool.checkpoint.staging import write_text
    from growtool.growing.report import known_before, page, picture

    drawn = grown.picture if grown else picture(recipe, known_before(recipe, summary))
    measured = str(grown.proof or "not checked") if grown else "not yet, this was a dry run"
    write_text(path, page(recipe, loaded.with_plan(recipe.plan, recipe.choices), summary, drawn, measured))
    if not quiet:
        say(f"written: {escape(str(path))}")


def _optimizer(run: Path | None, recipe: Recipe) -> OptimizerState | None:
    """Return the optimizer state in `run`, or else the one beside the source's weights, or None if there is none."""
    from growtool.growing.optimizer import find_state, in_template_form

    state = find_state(run or recipe.source.path.parent)
    if run is None and state is not None and in_template_form(recipe):
        note("optimizer: the state beside the weights is left behind, it does not grow in template form")
        return None
    if run is not None and state is None:
        raise PlanError(f"--optimizer-state {run}: found no optimizer.json, expected a run of `growtool finetune`")
    return state


@contextmanager
def _kept(errors: list[PlanError]) -> Iterator[None]:
    """While open, add a PlanError to the list in place of raising it."""
    try:
        yield
    except PlanError as error:
        errors.append(error)


def _joined(errors: Iterable[PlanError]) -> PlanError:
    """Return one error with the problems of all."""
    return PlanError([problem for error in errors for problem in error.problems])


def _target(recipe: Recipe) -> dict[str, object]:
    spec = recipe.target
    return {"architecture": spec.architecture, "model_args": dict(spec.model_args), "needs": recipe.needed_import}
