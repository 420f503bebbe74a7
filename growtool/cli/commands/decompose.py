"""`growtool decompose`: a checkpoint written as templates and coefficients; and `growtool export`, the way back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.opening import CheckpointArgument, ForceOption, NewCheckpointOption, PluginOption
from growtool.cli.tables import show_rows
from growtool.cli.templates import show_banks
from growtool.errors import PlanError

if TYPE_CHECKING:
    from growtool.templates.decompose import Request
    from growtool.templates.whole import Decomposed


BankKind = Literal["raw", "svd", "sub_block", "low_rank"]
_DEFAULT_PARTS, _DEFAULT_ENERGY = 2, 0.99


def decompose(
    checkpoint: CheckpointArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder or .safetensors file to write; without it, only report.",
            rich_help_panel="Output",
        ),
    ] = None,
    bank: Annotated[
        BankKind,
        typer.Option(
            help="raw: the same-shape layers of a stage; sub_block: equal parts of them; svd: their principal "
            "directions; low_rank: rank-one atoms of each layer. raw and sub_block are exact."
        ),
    ] = "raw",
    parts: Annotated[
        int | None,
        typer.Option(
            min=2, show_default=str(_DEFAULT_PARTS), help="With sub_block: parts the channels of a layer are cut into."
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="With svd: templates of a bank; with low_rank: atoms of a layer.")
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, show_default=str(_DEFAULT_ENERGY),
            help="With svd and low_rank, in place of --rank: part of the squared norm to keep.",
        ),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align", help="First put the neurons of like layers into the same order.")
    ] = False,
    plugin: PluginOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output.", rich_help_panel="Output")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout instead.", rich_help_panel="Output")
    ] = False,
) -> None:  # fmt: skip
    """Write a checkpoint as templates and coefficients, and measure what its layers share.

    Without -o nothing is written. Exact banks give every tensor back bit for bit.
    """
    from growtool.checkpoint import open_checkpoint
    from growtool.library import library_of
    from growtool.templates.whole import decompose_checkpoint

    request = _request(bank, parts, rank, energy)
    source = open_checkpoint(checkpoint)
    found = decompose_checkpoint(source, request, aligned=align, output=output, force=force)
    if as_json:
        emit_json(_document(found, output))
        return
    show_banks(source.name, found.reports)
    if found.alignment is not None:
        say(
            f"aligned: {len(found.alignment.orders)} sets of neurons in another order; mean cosine between like layers "
            f"{found.alignment.before:.4f} -> {found.alignment.after:.4f}",
        )
    if found.compared is not None:
        difference = (
            f"logits differ by {found.compared.relative_difference:.2e} (relative) on {found.compared.count} random "
            f"{library_of(source.spec).words.many}"
        )
        say(f"verified: {'every tensor equal bit for bit; ' if found.equal else ''}{difference}")
        say(f"written: {escape(str(output))}")


def _request(bank: BankKind, parts: int | None, rank: int | None, energy: float | None) -> Request:
    """Return what to decompose into; raise PlanError with every option that the kind of bank has no use for."""
    from growtool.templates.decompose import Request

    factored = bank in ("svd", "low_rank")
    problems = []
    if parts is not None and bank != "sub_block":
        problems.append(f"--parts: found with --bank {bank}, which cuts nothing; drop it or use --bank sub_block")
    for option, value in (("--rank", rank), ("--energy", energy)):
        if value is not None and not factored:
            problems.append(f"{option}: found with --bank {bank}, which keeps everything; drop it")
    if rank is not None and energy is not None:
        problems.append("--rank and --energy: both given, expected one of them; drop either")
    if energy is not None and energy <= 0:
        problems.append(f"--energy: found {energy:g}, expected more than 0; at most 1")
    if problems:
        raise PlanError(problems)
    return Request(
        bank,
        parts=_DEFAULT_PARTS if parts is None else parts,
        rank=rank,
        energy=_DEFAULT_ENERGY if energy is None else energy,
    )


def _document(found: Decomposed, output: Path | None) -> dict[str, Any]:
    aligned, compared = found.alignment, found.compared
    return {
        "output": None if output is None else str(output),
        "relative_difference": None if compared is None else compared.relative_difference,
        "alignment": None
        if aligned is None
        else {"sets": len(aligned.orders), "cosine_before": aligned.before, "cosine_after": aligned.after},
        "banks": [asdict(report) for report in found.reports],
    }


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="One in template form, as decompose writes it.")
    ],
    output: NewCheckpointOption,
    plugin: PluginOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a template checkpoint as the dense timm folder that `timm.create_model` loads."""
    from growtool.checkpoint import open_checkpoint
    from growtool.templates.convert import export_dense

    source = open_checkpoint(checkpoint)
    out = export_dense(output, source, force=force)
    stored = sum(info.nbytes for info in source.stored.values())
    dense = sum(info.nbytes for info in source.tensors.values())
    if as_json:
        emit_json({"output": str(out), "bytes_in_template_form": stored, "bytes": dense})
        return
    from growtool.report import units

    show_rows(("", ">template form", ">dense"), [("weights file", units.size(stored), units.size(dense))])
    say(f"written: {escape(str(out))}")
