"""Decomposing a checkpoint as the command does: traced, aligned, factorised, measured, and written if asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from growtool.checkpoint import Checkpoint, build, refuse_existing
from growtool.checkpoint.match import matched
from growtool.errors import PlanError
from growtool.templates.align import Alignment, align
from growtool.templates.convert import write_decomposed
from growtool.templates.decompose import Request, decompose
from growtool.templates.grouping import like_tensors, templatable
from growtool.templates.measures import BankReport
from growtool.trace import trace_built
from growtool.verify import Comparison


@dataclass(frozen=True, slots=True)
class Decomposed:
    """A checkpoint that was decomposed.

    Attributes:
        reports: the measures of each bank.
        alignment: how neurons were reordered; None if that was not asked for.
        compared: source and output on random inputs; None if nothing was written.
        equal: whether the template form holds every tensor of the source bit for bit.
    """

    reports: tuple[BankReport, ...]
    alignment: Alignment | None
    compared: Comparison | None
    equal: bool


def decompose_checkpoint(
    source: Checkpoint, request: Request, *, aligned: bool = False, output: Path | None = None, force: bool = False
) -> Decomposed:
    """Find the templates of a checkpoint's layers, and write the checkpoint in template form if asked for.

    Args:
        source: a dense checkpoint.
        request: which banks.
        aligned: whether to reorder the neurons of like layers first, so that they resemble each other.
        output: a folder, or a `.safetensors` file; None writes nothing.
        force: whether to replace an older output.

    Raises:
        PlanError: the checkpoint is in template form, no layers share a bank, or the output exists.
        CheckpointError: the weights are not those of the architecture, are not finite, or the written checkpoint is not
            equal to its source (a bug).
    """
    if source.form is not None:
        raise PlanError(f"{source.name}: found template form already, expected a dense checkpoint; export it first")
    if output is not None:
        refuse_existing(output, force=force)
    model = build(source.spec, where=source.name)
    source = matched(source, model)
    trace = trace_built(source.spec, model)
    groups = like_tensors(templatable(model, trace, source.tensors))
    alignment = align(trace, source.tensors, groups, source.read) if aligned else None
    read = alignment.read if alignment else source.read
    found = decompose(request, model, trace, source.tensors, read)
    if not found.form.banks:
        raise PlanError(
            f"{source.name}: no two layers of a stage have the same shape, so a {request.kind} bank would be empty; "
            "use --bank sub_block or low_rank"
        )
    exact = request.kind in ("raw", "sub_block")
    expected = read if alignment and alignment.orders else None
    compared = (
        write_decomposed(output, source, model, found, exact=exact, expected=expected, force=force) if output else None
    )
    return Decomposed(found.reports, alignment, compared, exact and not aligned)
