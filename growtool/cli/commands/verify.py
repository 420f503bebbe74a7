"""`growtool verify`: whether two checkpoints compute the same function."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, progress, remark, say
from growtool.cli.opening import CheckpointArgument, ModelArgsOption, ModelOption, PluginOption, open_all
from growtool.errors import LARGEST

if TYPE_CHECKING:
    from growtool.checkpoint import Checkpoint
    from growtool.verify import ChangedDecision, Comparison, ImageComparison


class Arithmetic(StrEnum):
    """Types both checkpoints can be computed in."""

    float32 = "float32"
    float64 = "float64"


_SHOWN = 20  # changed images listed before they are only counted; --json lists all


def verify(
    source: CheckpointArgument,
    target: Annotated[Path, typer.Argument(metavar="OTHER", help="The one that should compute the same.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="An image folder (CLASS/*.jpg, or a parent with validation/ or validation.tar) to decide on."
        ),
    ] = None,
    inputs: Annotated[int, typer.Option(min=1, max=LARGEST, help="Random inputs to run both on.")] = 8,
    dtype: Annotated[Arithmetic, typer.Option(help="Type of the arithmetic.")] = Arithmetic.float32,
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

    from growtool.finetune.parallel.device import in_use, resolve_device
    from growtool.images import require_images
    from growtool.verify import common_inputs, compare, default_tolerance

    place = resolve_device(device)
    a, b = pair = open_all([source, target], model, model_args)
    torch_dtype: torch.dtype = getattr(torch, dtype.value)
    limit = default_tolerance(a, b, torch_dtype) if tolerance is None else tolerance
    if data is not None:
        require_images(a.spec, a.name)
    drawn = common_inputs(a, b, inputs, seed, decide=data is not None)
    with in_use(place, tf32=False):
        logits = compare(a, b, drawn, dtype=torch_dtype, device=place)
        decisions = None if data is None else _compare_decisions(pair, data, torch_dtype, batch_size, place)
    agree = logits.within(limit) and (decisions is None or decisions.logits.within(limit))
    if as_json:
        emit_json(_document(pair, logits, decisions, limit, agree))
    else:
        _show(logits, decisions, limit, agree)
    if not agree:
        raise typer.Exit(1)


def _compare_decisions(pair: list[Checkpoint], data: Path, dtype: Any, batch_size: int, device: Any) -> ImageComparison:
    from growtool.images import EVAL_SPLITS, ImageFormat, LabelledImages
    from growtool.verify import StreamedModel, compare_images

    source, target = pair
    model = StreamedModel(source)
    images = LabelledImages.of(
        data,
        EVAL_SPLITS,
        channels=ImageFormat.of(model.model).input_size[0],
        num_classes=model.classes,
        label_names=source.spec.label_names,
        checkpoint=source.name,
    )
    for text in images.split.remarks:
        remark(text)
    with progress("images", len(images)) as advance:
        return compare_images(
            source, target, images, dtype=dtype, batch_size=batch_size, device=device, advance=advance
        )


def _document(
    pair: list[Checkpoint], logits: Comparison, decisions: ImageComparison | None, tolerance: float, agree: bool
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "source": pair[0].name,
        "target": pair[1].name,
        "tolerance": tolerance,
        "agree": agree,
        "random_inputs": asdict(logits),
    }
    if decisions is not None:
        document["images"] = asdict(decisions)
    return document


def _show(logits: Comparison, decisions: ImageComparison | None, tolerance: float, agree: bool) -> None:
    _show_logits(logits, "random inputs", tolerance)
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
    verdict = "[bold green]same function[/]" if agree else "[bold red]different functions[/]"
    say(f"{verdict} (tolerance {tolerance:g} in {logits.dtype})")


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
