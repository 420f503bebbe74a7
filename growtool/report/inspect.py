"""A checkpoint in numbers, from the header of its weights and a model built without weights.

No weight is read, but for the banks of a checkpoint in template form: what layers share shows in the values alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from growtool.checkpoint import Checkpoint, build, coefficients_of, open_checkpoint
from growtool.checkpoint.beside import REPORT
from growtool.checkpoint.documents import parse_json
from growtool.checkpoint.match import matched
from growtool.errors import CheckpointError
from growtool.library import Sizes, library_of, meta_inputs, only_size
from growtool.notebook import as_html
from growtool.report import units
from growtool.report.macs import COUNTED, Macs, count_macs
from growtool.templates.measures import BankReport, report_stored

OWN = "(own)"  # row of the tensors of the model itself that are in none of its modules: tokens, position tables
_COUNTS = ("parameters", "buffers", "bytes", "macs")


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module with everything inside it.

    Attributes:
        name: its name in the model.
        kind: name of its class.
        parameters: elements of its trainable tensors; tied ones count once.
        buffers: elements of its stored buffers.
        bytes: bytes of both in the file; templates, which belong to no module, are in the row of the model itself.
        macs: multiply-accumulates for one input.
    """

    name: str
    kind: str
    parameters: int
    buffers: int
    bytes: int
    macs: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint in numbers.

    Attributes:
        name: the file or folder.
        architecture, model_args: the model.
        input_size: shape of the one input that the MACs are for; if it is several tensors, name -> shape.
        parameters, buffers, bytes: of the whole file, as in `ModuleRow`.
        dtypes: element type, as safetensors names it -> how many stored elements have it, most common first.
        macs: multiply-accumulates for one input, with their operations.
        modules: one row for each module down to the depth asked for, in the model's order.
        lineage: what the checkpoint says about the growth it came from, oldest first; empty if it was not grown.
        banks: what the templates of a checkpoint in template form amount to; empty for a dense one.
        coefficients: templated tensor -> for each of its blocks, row by row, the coefficients of the templates.
        input: the word for one input, such as `image`.
        repository: repository in the hub of a checkpoint that was named.
        commit: commit of the repository; None if the hub was not asked.
    """

    name: str
    architecture: str
    model_args: Mapping[str, Any]
    input_size: tuple[int, ...] | Sizes
    parameters: int
    buffers: int
    bytes: int
    dtypes: Mapping[str, int]
    macs: Macs
    modules: tuple[ModuleRow, ...]
    lineage: tuple[Mapping[str, Any], ...]
    banks: tuple[BankReport, ...]
    coefficients: Mapping[str, list[list[float]]]
    input: str = "image"
    repository: str | None = None
    commit: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for `json.dumps`, with MACs and FLOPs."""
        data = {key: value for key, value in asdict(self).items() if key != "input"}
        return data | {
            "macs": self.macs.total,
            "flops": self.macs.flops,
            "macs_by_operation": dict(self.macs.by_operation),
            "macs_count": COUNTED,
        }

    def facts(self) -> dict[str, str]:
        """Return label -> text of the whole checkpoint, for people."""
        fetched = f"at {self.commit}" if self.commit else "weights not fetched: counted as the library builds them"
        return {
            **({"repository": f"{self.repository}, {fetched}"} if self.repository else {}),
            "architecture": self.architecture,
            "model_args": ", ".join(f"{key}={value}" for key, value in self.model_args.items()) or "none",
            "input": _sizes(self.input_size),
            "parameters": f"{self.parameters:,} ({units.count(self.parameters)})",
            "buffers": f"{self.buffers:,}",
            "stored": f"{units.size(self.bytes)}, {', '.join(self.dtypes)}",
            "MACs": f"{self.macs.total:,} ({units.count(self.macs.total)})",
            "FLOPs": f"{self.macs.flops:,} ({units.count(self.macs.flops)})",
        }

    def _repr_html_(self) -> str:
        header = ("module", "type", "parameters", "stored", "MACs")
        rows = [
            (row.name, row.kind, f"{row.parameters:,}", units.size(row.bytes), units.count(row.macs))
            for row in self.modules
        ]
        return as_html(self.name, self.facts(), *([(header, rows)] if rows else []))


def _sizes(size: tuple[int, ...] | Mapping[str, tuple[int, ...]]) -> str:
    """Return shapes as `3 x 224 x 224`, several with their names."""
    if isinstance(size, tuple):
        return " x ".join(map(str, size))
    return ", ".join(f"{name} {_sizes(part)}" for name, part in size.items())


def inspect_checkpoint(
    checkpoint: Checkpoint | str | Path, *, depth: int = 1, model: nn.Module | None = None
) -> Inspection:
    """Count a checkpoint's parameters, bytes and MACs.

    Args:
        checkpoint: the opened file, a path, or a name in the hub, of which no weights are fetched.
        depth: levels of the module tree to list, 0 for none.
        model: the skeleton that `build` makes of the spec, if the caller has it already.

    Raises:
        CheckpointError: the weights are not those of the architecture, or `growth.json` is damaged.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint, counting=True)
    model = model if model is not None else build(checkpoint.spec, where=checkpoint.name)
    checkpoint = matched(checkpoint, model)
    macs = count_macs(checkpoint.spec, model)
    whole, modules = _module_rows(checkpoint, model, macs, depth)
    dtypes: Counter[str] = Counter()
    for info in checkpoint.stored.values():
        dtypes[info.dtype] += info.numel
    lineage = read_lineage(checkpoint)
    # `in_span` tells how much of a new block would come from trained layers. After a growth, some layers of a bank
    # are combinations themselves, and nobody can say which are trained.
    banks = [replace(bank, in_span=None) if lineage else bank for bank in report_stored(checkpoint)]
    return Inspection(
        name=checkpoint.name,
        architecture=checkpoint.spec.architecture,
        model_args=checkpoint.spec.model_args,
        input_size=only_size(meta_inputs(checkpoint.spec, model, 1).sizes),
        parameters=whole.parameters,
        buffers=whole.buffers,
        bytes=whole.bytes,
        dtypes=dict(dtypes.most_common()),
        macs=macs,
        modules=modules,
        lineage=lineage,
        banks=tuple(banks),
        coefficients=_coefficients(checkpoint),
        input=library_of(checkpoint.spec).words.one,
        repository=checkpoint.origin.repository if checkpoint.origin else None,
        commit=checkpoint.origin.commit if checkpoint.origin else None,
    )


def _coefficients(checkpoint: Checkpoint) -> dict[str, list[list[float]]]:
    templated = checkpoint.form.tensors if checkpoint.form else {}
    return {name: checkpoint.read_stored(coefficients_of(name)).flatten(0, 1).tolist() for name in templated}


def read_lineage(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], ...]:
    """Return the steps of growth that a checkpoint records in its config, or else in `growth.json`, oldest first.

    Raises:
        CheckpointError: `growth.json` is not JSON, or the lineage is not a list of mappings.
    """
    where, record = f"{checkpoint.name}: config: growtool", checkpoint.config.get("growtool", {})
    report = checkpoint.path.parent / REPORT
    if isinstance(record, Mapping) and "lineage" not in record and checkpoint.folder is not None and report.is_file():
        where = str(report)
        record = parse_json(report.read_bytes(), where, "restore the file, or remove it to go without")
    steps = record.get("lineage", []) if isinstance(record, Mapping) else None
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise CheckpointError(f"{where}: found no list of mappings under `lineage`, expected one; restore the file")
    return tuple(steps)


def _module_rows(
    checkpoint: Checkpoint, model: nn.Module, macs: Macs, depth: int
) -> tuple[ModuleRow, tuple[ModuleRow, ...]]:
    """Return the row of the whole model, and the rows of its modules that hold or compute anything."""
    first = {name for name, _ in model.named_parameters()}  # a tied parameter counts once, under its first name
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}  # all names of parameters

    def row(name: str, multiply_accumulates: int) -> ModuleRow:
        inside = {key: info for key, info in checkpoint.tensors.items() if not name or key.startswith(f"{name}.")}
        return ModuleRow(
            name=name,
            kind=type(model.get_submodule(name)).__name__,
            parameters=sum(info.numel for key, info in inside.items() if key in first),
            buffers=sum(info.numel for key, info in inside.items() if key not in every),
            bytes=sum(info.nbytes for key, info in checkpoint.stored.items() if not name or key.startswith(f"{name}.")),
            macs=multiply_accumulates,
        )

    whole = row("", macs.total)
    names = [name for name, _ in model.named_modules() if name and name.count(".") < depth]
    rows = [row(name, macs.by_module.get(name, 0)) for name in names]
    if rows:
        rows.insert(0, _remainder(whole, [row for row in rows if "." not in row.name]))
    return whole, tuple(row for row in rows if row.parameters or row.buffers or row.macs)


def _remainder(whole: ModuleRow, parts: Sequence[ModuleRow]) -> ModuleRow:
    """Return the row of what is in the whole model and in none of its parts."""
    rest = {key: getattr(whole, key) - sum(getattr(part, key) for part in parts) for key in _COUNTS}
    return ModuleRow(OWN, whole.kind, **rest)
