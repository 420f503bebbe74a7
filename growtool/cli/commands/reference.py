"""`growtool import`: files of training scripts become timm folders, those of the MixtureGrowth code templates."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from growtool.cli.console import JsonOption, emit_json, say
from growtool.cli.opening import ForceOption, ModelArgsOption, NewCheckpointOption, load_plugins, parse_arguments
from growtool.errors import PlanError, format_names

_NAMES = "REFERENCE_NAMES"  # a dict of a plugin: tensors of the timm model -> paths in the reference


def import_reference(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="What a training script saved: a file of torch or safetensors, a folder, or an index."
        ),
    ],
    output: NewCheckpointOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="The timm model it is for; not needed where config.json is beside it."
        ),
    ] = None,
    model_args: ModelArgsOption = None,
    plugin: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.py",
            help="A Python file of yours that registers the model in timm. It is run. Where it has a dict "
            f"{_NAMES}, from the model's tensors to those of the MixtureGrowth reference, templates are written.",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a timm folder of a training checkpoint: of timm's train.py, of other trainers, of the MixtureGrowth code.

    No code of the file is run. Wrappers are taken off, the averaged weights are taken where there are any, and timm
    loads the rest as it would for itself; what it changes is told.
    """
    names = _reference_names(plugin)
    arguments = parse_arguments(model_args or ())
    if names is None:
        _import_training(file, output, model, arguments, force=force, as_json=as_json)
    elif model is None:
        raise PlanError(f"--model: not given, expected the timm model that {plugin} maps to the reference; name it")
    else:
        _import_templates(file, output, model, arguments, names, force=force, as_json=as_json)


def _reference_names(plugin: Path | None) -> dict[str, str] | None:
    """Run the plugin and return its map of names; None if it has none, so that the file is not of the reference.

    Raises:
        PlanError: it is no dict.
    """
    if plugin is None:
        return None
    load_plugins([plugin])
    names: Any = getattr(sys.modules[plugin.stem], _NAMES, None)
    if names is not None and not isinstance(names, dict):
        raise PlanError(
            f"{plugin}: {_NAMES}: found {type(names).__name__}, expected a dict from names of the timm model to paths "
            "in the reference"
        )
    return names


def _import_training(
    file: Path, output: Path, model: str | None, arguments: dict[str, Any], *, force: bool, as_json: bool
) -> None:
    from growtool.checkpoint import open_checkpoint
    from growtool.checkpoint.folder import loading_line
    from growtool.checkpoint.foreign.importing import import_checkpoint
    from growtool.library import library_of

    done = import_checkpoint(file, output, model=model, model_args=arguments, force=force)
    if as_json:
        emit_json({"output": str(output), **{key: value for key, value in asdict(done).items() if key != "file"}})
        return
    library, prepared = library_of(open_checkpoint(output).spec), ", ".join(done.preparation)
    lines = [f"taken: {' > '.join(done.keys) or 'all'} of {done.file}"]
    lines += [f"not taken: {', '.join(done.others)}"] if done.others else []
    lines += [f"names: {done.prefix!r} taken off"] if done.prefix else []
    lines += [f"left out: {format_names([*done.left, *done.unused])}"] if done.left or done.unused else []
    lines += [f"{library.name}, while loading: {change}" for change in done.changes]
    lines += [f"{library.words.many}, by the arguments in the file: {prepared}"] if prepared else []
    lines += [f"written: {output}", f"load it: {loading_line(output)}"]
    for line in lines:
        say(escape(line))


def _import_templates(
    file: Path, output: Path, model: str, arguments: dict[str, Any], names: dict[str, str], *, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    from growtool.checkpoint.foreign.names import cleaned
    from growtool.checkpoint.foreign.torch_file import read_state_dict
    from growtool.library import build, spec_named
    from growtool.templates.convert import write_tensors
    from growtool.templates.reference import from_reference

    spec = spec_named(model, arguments)
    skeleton = build(spec, where=f"--model {model}")
    state = {cleaned(name): tensor for name, tensor in read_state_dict(file).tensors.items()}
    tensors, form = from_reference(state, skeleton, names, where=str(file))
    write_tensors(output, spec, skeleton, tensors, form, force=force)
    if as_json:
        emit_json(
            {"output": str(output), "templated": sorted(form.tensors), "dense": len(tensors) - 2 * len(form.banks)}
        )
        return
    grids, banks = len(form.tensors), len(form.banks)
    say(f"{grids} tensor{'s' * (grids != 1)} in template form, {banks} bank{'s' * (banks != 1)}")
    say(f"written: {escape(str(output))}")
