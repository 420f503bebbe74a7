"""`growtool verify`: whether two checkpoints compute the same function."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, progress, remark, say
from growtool.cli.opening import CheckpointArgument, ModelArgsOption, ModelOption, PluginOption, open_all
from growtool.errors import LARGEST

if TYPE_CHECKING:
    from growtool.verify import ChangedDecision, Comparison
    from growtool.workflows.verify import Verification


_SHOWN = 20  # changed images listed before they are only counted; --json lists all


def verify(
    source: CheckpointArgument,
    target: Annotated[str, typer.Argument(metavar="OTHER", help="The one that should compute the same.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="An image folder (CLASS/*.jpg, or a parent with validation/ or validation.tar) to decide on."
        ),
    ] = None,
    inputs: Annotated[int, typer.Option(min=1, max=LARGEST, help="Random inputs to run both on.")] = 8,
    dtype: Annotated[Literal["float32", "float64"], typer.Option(help="Type of the arithmetic.")] = "float32",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Largest max|a-b| / max|a| to accept; by default that of the coarsest type stored or computed in: "
            "1e-10 for float64, 1e-5 for float32, 5e-3 for float16, 5e-2 for bfloat16.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Runs both models: auto, cpu, cuda or cuda:N.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Images of --data run at a time.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST, help="Seed of the random inputs.")] = 0,
    model: ModelOption = None,
    plugin: PluginOption = None,
    model_args: ModelArgsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run two checkpoints on the same inputs and compare their logits, or the features of models without a head; exit
    code 1 if they differ.

    Weights are read as they are needed, so files larger than memory can be compared.
    """
    import torch

    from growtool.workflows.verify import verify_checkpoints

    a, b = open_all([source, target], model, model_args)
    found = verify_checkpoints(
        a,
        b,
        inputs,
        data=data,
        dtype=getattr(torch, dtype),
        tolerance=tolerance,
        device=device,
        batch_size=batch_size,
        seed=seed,
        told=remark,
        show=progress,
    )
    if as_json:
        emit_json(found.to_json())
    else:
        _show(found)
    if not found.agree:
        raise typer.Exit(1)


def _show(found: Verification) -> None:
    tolerance, decisions = found.tolerance, found.images
    _show_logits(found.inputs, "random inputs", tolerance)
    if decisions is not None:
        _show_logits(decisions.logits, "images", tolerance)
        count = decisions.logits.count
        say(
            f"top-1 {decisions.source_top1:.2%} and {decisions.target_top1:.2%}; "
            f"{len(decisions.changed)} of {count} decisions changed"
        )
        for change in decisions.changed[:_SHOWN]:
            _show_change(change, tolerance)
        if len(decisions.changed) > _SHOWN:
            say(f"  and {len(decisions.changed) - _SHOWN} more; --json lists them all")
    verdict = "[bold green]same function[/]" if found.agree else "[bold red]different functions[/]"
    say(f"{verdict} (tolerance {tolerance:g} in {found.inputs.dtype})")


def _show_logits(logits: Comparison, what: str, tolerance: float) -> None:
    style = "green" if logits.within(tolerance) else "red"
    alike = logits.argmax_agreement
    say(
        f"{'features' if alike is None else 'logits'} on {logits.count} {what}: relative difference "
        f"[{style}]{logits.relative_difference:.2e}[/]" + ("" if alike is None else f", {alike:.2%} decided alike")
    )


def _show_change(change: ChangedDecision, tolerance: float) -> None:
    cause = "rounding" if change.margin <= 2 * tolerance else "beyond the tolerance"
    say(
        f"  {escape(change.file)}: class {change.label}, decided {change.source} and {change.target}, "
        f"margin {change.margin:.1e} ({cause})"
    )
