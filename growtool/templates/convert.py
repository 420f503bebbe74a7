"""Converting checkpoints between their two forms: dense, as timm loads them, and templates with coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from growtool.checkpoint import (
    Checkpoint,
    Form,
    ModelSpec,
    TensorInfo,
    build,
    infos_of,
    is_single_file,
    open_checkpoint,
    refuse_existing,
    write_file,
    write_folder,
)
from growtool.checkpoint.beside import CARD, PLAN, REPORT, TRAINING, card_of_form, documents_beside, plain_card
from growtool.checkpoint.folder import spare_source
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError, PlanError
from growtool.library import Inputs
from growtool.templates.decompose import Decomposition
from growtool.verify import Comparison, compare, default_tolerance, random_inputs


def write_decomposed(
    out: Path, source: Checkpoint, model: nn.Module, found: Decomposition, *, exact: bool,
    expected: Callable[[str], Tensor] | None = None, force: bool = False,
) -> Comparison:  # fmt: skip
    """Write the template form of a checkpoint; it appears once it was read back and compared with the source.

    Args:
        out: a folder, or a `.safetensors` file that carries its config.
        source: the dense checkpoint.
        model: its skeleton.
        found: from `decompose`.
        exact: whether the banks promise every tensor back bit for bit.
        expected: returns the tensors that are promised, if neurons were reordered; None are the source's.
        force: whether to replace an older output.

    Returns:
        The comparison of source and output on random inputs.

    Raises:
        PlanError: the output exists or is the source.
        CheckpointError: a tensor is not what was promised (a bug).
    """
    compared: list[Comparison] = []

    def check(weights: Path) -> None:
        written = open_checkpoint(weights)
        if exact:
            _require_equal(source, written, expected or source.read)
        inputs = random_inputs(source.spec, model, 4, 0).to(torch.float32)
        compared.append(_compared(source, written, inputs, exact=exact))

    documents = documents_beside(source, (REPORT, PLAN, TRAINING))
    if expected is not None:
        documents.pop(REPORT, None)  # its positions of new neurons are those of the old order
    documents[CARD] = card_of_form(documents[CARD], in_templates=True)
    spare_source(out, source)
    _write(out, source.spec, model, found.infos, found.produce, found.form, documents, check, force=force)
    return compared[0]


def write_tensors(
    out: Path, spec: ModelSpec, model: nn.Module, tensors: Mapping[str, Tensor], form: Form, *, force: bool = False
) -> None:
    """Write a template checkpoint from tensors in memory: a folder, or a `.safetensors` file that carries its config.

    Raises:
        PlanError: the output exists.
    """
    documents = {CARD: card_of_form(plain_card(spec), in_templates=True)}
    _write(out, spec, model, infos_of(tensors), tensors.__getitem__, form, documents, force=force)


def export_dense(out: Path, source: Checkpoint, *, force: bool = False) -> Path:
    """Write a template checkpoint as a dense one, a folder or a lone file, tensor by tensor; return `out`.

    Raises:
        PlanError: the checkpoint is dense already, or the output exists or is the source.
        CheckpointError: the weights are not those of the architecture.
    """
    if source.form is None:
        raise PlanError(f"{source.name}: found a dense checkpoint, expected one in template form; use it as it is")
    model = build(source.spec, where=source.name)
    source = matched(source, model)
    documents = documents_beside(source, (REPORT, PLAN, TRAINING))
    documents[CARD] = card_of_form(documents[CARD], in_templates=False)
    refuse_existing(out, force=force)
    spare_source(out, source)
    _write(out, source.spec, model, source.tensors, source.read, None, documents, force=force)
    return out


def _write(
    out: Path,
    spec: ModelSpec,
    model: nn.Module,
    infos: Mapping[str, TensorInfo],
    produce: Callable[[str], Tensor],
    form: Form | None,
    documents: Mapping[str, str],
    check: Callable[[Path], None] = lambda weights: None,
    *,
    force: bool,
) -> None:
    """Write a folder, or a lone file if `out` is named like one; it appears if `check` accepts its weights file."""
    common: dict[str, Any] = {
        "model": model,
        "metadata": {"growtool_version": version("growtool"), **(form.metadata() if form else {})},
        "force": force,
    }
    if is_single_file(out):
        write_file(out, spec, infos, produce, check=check, **common)
        return

    def checked(folder: Path) -> Mapping[str, str]:
        check(folder / "model.safetensors")
        return documents

    write_folder(out, spec, infos, produce, documents=checked, **common)


def _require_equal(source: Checkpoint, written: Checkpoint, expected: Callable[[str], Tensor]) -> None:
    """Check that every tensor of a written checkpoint is the expected one bit for bit; raise CheckpointError if not."""
    changed = [
        name
        for name, info in source.tensors.items()
        if written.tensors.get(name) != info or not _same_bits(expected(name), written.read(name))
    ]
    if changed:
        raise CheckpointError(
            f"{changed[0]}: the exact banks do not give the tensor back bit for bit ({len(changed)} tensors in all). "
            "Nothing was written; this is a bug of growtool, please report it with the architecture"
        )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _compared(source: Checkpoint, written: Checkpoint, inputs: Inputs, *, exact: bool) -> Comparison:
    """Compare source and written checkpoint on the same inputs.

    Raises:
        CheckpointError: the banks are exact, and the outputs differ by more than rounding.
    """
    dtype = torch.float64 if any(info.dtype == "F64" for info in source.tensors.values()) else torch.float32
    comparison = compare(source, written, inputs, dtype=dtype)
    if exact and not comparison.within(default_tolerance(source, written, dtype)):
        # Reordered neurons are summed in another order. In float64 such rounding falls below the tolerance, a bug not.
        comparison = compare(source, written, inputs, dtype=torch.float64)
        if not comparison.within(default_tolerance(source, written, torch.float64)):
            raise CheckpointError(
                f"{source.name}: logits differ by {comparison.relative_difference:.2e} in template form, expected no "
                "difference. Nothing was written; this is a bug of growtool, please report it with the architecture"
            )
    return comparison
