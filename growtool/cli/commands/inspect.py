"""`growtool inspect`: what a checkpoint is made of, or two side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.coupling import coupling_document, show_coupling
from growtool.cli.opening import (
    CheckpointArgument,
    ModelArgsOption,
    ModelOption,
    PluginOption,
    open_all,
)
from growtool.cli.pictures import HTML, SVG, require_places, write_picture
from growtool.cli.tables import new_table, show, show_rows
from growtool.cli.templates import show_banks, show_coefficients
from growtool.report import units

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from growtool.report.growth_map import BlockOrigin, GrowthMap
    from growtool.report.inspect import Inspection, ModuleRow
    from growtool.trace import Trace

_HASH = 16  # hexadecimal digits shown of a hash


def inspect(
    checkpoint: CheckpointArgument,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="A second one, to put side by side.", show_default=False),
    ] = None,
    depth: Annotated[int, typer.Option(min=0, help="Levels of the module tree to list; 0 lists none.")] = 1,
    coupling: Annotated[bool, typer.Option("--coupling", help="Show which tensors share their width, too.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw blocks and widths, and what growth made of its source: .svg or .html.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    plugin: PluginOption = None,
    model_args: ModelArgsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Show parameters, bytes, MACs and FLOPs, by module, and where a grown checkpoint came from.

    Nothing but the header of the weights file is read, unless it is in template form: then its banks and coefficients
    are, and shown. Of a published checkpoint nothing else is downloaded, and nothing at all for a name of timm.
    """
    require_places(("--picture", picture, (*SVG, *HTML)))
    from growtool.checkpoint import build
    from growtool.report.growth_map import growth_map
    from growtool.report.inspect import inspect_checkpoint
    from growtool.trace import trace_built

    paths = [checkpoint] if other is None else [checkpoint, other]
    inspections: list[Inspection] = []
    models: list[tuple[Trace, nn.Module]] = []
    opened_all = open_all(paths, model, model_args, counting=True)
    growth = growth_map(opened_all[1], opened_all[0]) if other is not None else None
    for opened in opened_all:
        skeleton = build(opened.spec, where=opened.name)
        inspections.append(inspect_checkpoint(opened, depth=depth, model=skeleton))
        if coupling or picture is not None:
            models.append((trace_built(opened.spec, skeleton), skeleton))
    if picture is not None:
        write_picture(picture, opened_all, inspections, models, growth)
    traces = [trace for trace, _ in models] if coupling else []
    if as_json:
        emit_json(_document(inspections, traces, growth))
    else:
        _show(inspections, traces, growth)
        if picture is not None:
            say(f"written: {escape(str(picture))}")


def _document(inspections: list[Inspection], traces: list[Trace], growth: GrowthMap | None) -> dict[str, Any]:
    documents = [inspection.to_json() for inspection in inspections]
    for document, coupling in zip(documents, traces, strict=False):  # no traces without --coupling
        document["coupling"] = coupling_document(coupling)
    result: dict[str, Any] = {"checkpoints": documents}
    if len(documents) == 2:
        a, b = documents
        result["blocks"] = [asdict(origin) for origin in growth.blocks()] if growth else []
        result["ratios"] = {key: b[key] / a[key] for key in ("parameters", "bytes", "macs", "flops") if a[key]}
    return result


def _show(inspections: list[Inspection], traces: list[Trace], growth: GrowthMap | None) -> None:
    if len(inspections) == 1:
        _show_one(inspections[0])
    else:
        _show_pair(inspections[0], inspections[1], growth)
    for inspection in inspections:
        if inspection.banks:
            show_banks(inspection.name, inspection.banks)
            show_coefficients(inspection.banks, inspection.coefficients)
        _show_lineage(inspection)
    for inspection, coupling in zip(inspections, traces, strict=False):
        show_coupling(inspection.name, coupling)


def _show_one(inspection: Inspection) -> None:
    say(f"[bold]{escape(inspection.name)}[/]")
    show_rows(("", ""), _facts(inspection).items())
    if inspection.modules:
        params, macs = inspection.parameters, inspection.macs.total
        rows = (
            (
                _indented(row.name), row.kind, f"{row.parameters:,}", _share(row.parameters, params),
                units.size(row.bytes), units.count(row.macs), _share(row.macs, macs),
            )
            for row in inspection.modules
        )  # fmt: skip
        show_rows(("module", "type", ">parameters", ">share", ">stored", ">MACs", ">share"), rows)
    _show_what_is_counted(inspection)


def _show_pair(a: Inspection, b: Inspection, growth: GrowthMap | None) -> None:
    ratios = {
        "parameters": units.ratio(b.parameters, a.parameters),
        "stored": units.ratio(b.bytes, a.bytes),
        "MACs": units.ratio(b.macs.total, a.macs.total),
        "FLOPs": units.ratio(b.macs.flops, a.macs.flops),
    }
    left, right = _facts(a), _facts(b)
    names = [escape(Path(inspection.name).name) for inspection in (a, b)]
    show_rows(
        ("", *names, ">ratio"),
        ((label, left[label], right[label], ratios.get(label, "")) for label in left if label in right),
    )
    if a.modules or b.modules:
        show(_paired_modules(a.modules, b.modules, growth))
    if growth and (origins := growth.blocks()):
        rows = ((o.block, o.source or "-", f"new: {o.operator}" if o.operator else "") for o in origins)
        show_rows(("block", "came from", ""), (map(escape, cells) for cells in rows))
    _show_what_is_counted(a)


def _paired_modules(rows_a: Sequence[ModuleRow], rows_b: Sequence[ModuleRow], growth: GrowthMap | None) -> Table:
    """Return a table of the modules of two checkpoints, A and B.

    If B is grown from A, each module of B stands beside the one that it came from; one that growth added stands alone.
    Else modules of the same name stand beside each other. A module of A without a counterpart has a row of its own.
    """
    table = new_table("module", ">parameters", "", ">ratio", ">MACs", "", ">ratio")
    by_name_a, by_name_b = ({row.name: row for row in rows} for rows in (rows_a, rows_b))
    origins = {name: growth.origin(name) if growth else None for name in by_name_b}
    sources = {name: origin.source if origin else name for name, origin in origins.items()}
    # Names of blocks mean other blocks after growth: of A, only the modules that led to none of B's keep a row.
    names_a = [name for name in by_name_a if name not in sources.values()] if growth else list(by_name_a)
    for name in _merged(names_a, list(by_name_b)):
        origin, b = origins.get(name), by_name_b.get(name)
        source = None if origin and origin.operator else sources.get(name, name)
        a = by_name_a.get(source) if source else None
        table.add_row(
            _indented(name) + _came_from(name, origin),
            *(units.count(row.parameters) if row else "" for row in (a, b)),
            units.ratio(b.parameters if b else 0, a.parameters if a else 0),
            *(units.count(row.macs) if row else "" for row in (a, b)),
            units.ratio(b.macs if b else 0, a.macs if a else 0),
        )
    return table


def _came_from(name: str, origin: BlockOrigin | None) -> str:
    """Return a remark on a block that is new or had another number in the source; none on modules inside a block."""
    if origin is None or not name.rpartition(".")[2].isdecimal() or (origin.source == name and not origin.operator):
        return ""
    return (f" <- {escape(origin.source)}" if origin.source else "") + (" (new)" if origin.operator else "")


def _merged(a: list[str], b: list[str]) -> list[str]:
    """Return the names of both in the order of `a`; names only in `b` come after the name before them in `b`."""
    order = list(a)
    for position, name in enumerate(b):
        if name not in a:
            order.insert(order.index(b[position - 1]) + 1 if position else 0, name)
    return order


def _facts(inspection: Inspection) -> dict[str, str]:
    return {label: escape(text) for label, text in inspection.facts().items()}


def _show_what_is_counted(inspection: Inspection) -> None:
    from growtool.report.macs import COUNTED

    say(f"MACs of one {inspection.input}, counting {COUNTED}; FLOPs = 2 x MACs.", style="dim")


def _show_lineage(inspection: Inspection) -> None:
    steps = inspection.lineage
    for number, step in enumerate(steps, 1):
        say(f"\n[bold]{escape(inspection.name)}[/]: grown, step {number} of {len(steps)}")
        show_rows(("", ""), ((escape(str(key)), escape(_step_text(key, value))) for key, value in step.items()))


def _step_text(key: str, value: Any) -> str:
    """Return a value of a step of growth as text; of a hash the beginning, which is enough to compare."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_step_text(name, part)}" for name, part in value.items())
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:_HASH]}…" if key.endswith("sha256") else text


def _indented(name: str) -> str:
    """Return the last part of a module's path, indented by its depth."""
    return "  " * name.count(".") + escape(name.rpartition(".")[2])


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
