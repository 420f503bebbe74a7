"""`growtool import`: state dicts of the public MixtureGrowth reference as template checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import emit_json, say
from growtool.cli.opening import ModelArgsOption, load_plugins, parse_arguments
from growtool.errors import PlanError

_NAMES = "REFERENCE_NAMES"


def import_reference(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A state dict of the reference, saved by torch; read with weights_only."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write, or a .safetensors file with its config inside.")
    ],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The timm model it is to become.")],
    plugin: Annotated[
        Path,
        typer.Option(
            metavar="FILE.py",
            help=f"A Python file that registers the model in timm and maps its tensors to the reference's: {_NAMES}.",
        ),
    ],
    model_args: ModelArgsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")] = False,
) -> None:
    """Write a checkpoint of the public MixtureGrowth reference in template form."""
    from growtool.checkpoint import ModelSpec, build
    from growtool.templates.convert import write_tensors
    from growtool.templates.reference import from_reference, read_state_dict

    load_plugins([plugin])
    names: Any = getattr(sys.modules[plugin.stem], _NAMES, None)
    if not isinstance(names, dict):
        raise PlanError(
            f"{plugin}: {_NAMES}: found {type(names).__name__}, expected a dict from names of the timm model to paths "
            "in the reference"
        )
    spec = ModelSpec(model, parse_arguments(model_args or ()))
    skeleton = build(spec, where=f"--model {model}")
    tensors, form = from_reference(read_state_dict(file), skeleton, names, where=str(file))
    write_tensors(output, spec, skeleton, tensors, form, force=force)
    if as_json:
        emit_json(
            {"output": str(output), "templated": sorted(form.tensors), "dense": len(tensors) - 2 * len(form.banks)}
        )
        return
    say(f"{len(form.tensors)} tensors in template form, {len(form.banks)} banks")
    say(f"written: {escape(str(output))}")
