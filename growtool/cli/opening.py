"""Options that name checkpoints, and opening what they name, files of weights without a config included."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from growtool.errors import CheckpointError, PlanError

if TYPE_CHECKING:
    from growtool.checkpoint import Checkpoint

CheckpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A timm folder, a .safetensors file, or a name: resnet50.a1_in1k, hf-hub:ORG/NAME@REVISION.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The timm model of a .safetensors file that has no config.json."),
]
ModelArgsOption = Annotated[
    list[str] | None,
    typer.Option("--model-args", metavar="KEY=VALUE", help="With --model, an argument of its constructor; repeatable."),
]

NewCheckpointOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder to write, or a .safetensors file with its config inside.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]

_REMEDY = "name the timm model with --model (and --model-args)"


def load_plugins(paths: list[Path] | None) -> list[Path] | None:
    """Run each plugin; return the paths, as typer takes the value of an option from its callback."""
    for path in paths or ():
        from growtool.library.plugin import load_plugin

        load_plugin(path)
    return paths


PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=load_plugins,
        help="A Python file that registers models in timm, or a library; it is run.",
    ),
]


def open_all(
    paths: Sequence[str], model: str | None, model_args: Sequence[str] | None, *, counting: bool = False
) -> list[Checkpoint]:
    """Open checkpoints.

    Args:
        paths: folders, files or names.
        model: architecture for the files that do not say their own.
        model_args: `KEY=VALUE` arguments of its constructor.
        counting: whether names, shapes and types are all that is wanted, so that no weights need be downloaded.

    Raises:
        CheckpointError: a path cannot be opened.
        PlanError: `model_args` are malformed, or `model` is given and every checkpoint says its architecture.
    """
    from growtool.checkpoint import open_checkpoint

    arguments = told_arguments(model, model_args or ())
    if model is None:
        return [open_checkpoint(path, remedy=_REMEDY, counting=counting) for path in paths]
    opened, used = [], False
    for path in paths:
        try:
            opened.append(open_checkpoint(path, counting=counting))
        except CheckpointError:
            # Likely for want of an architecture. If it was for another reason, the second try raises that again.
            opened.append(open_checkpoint(path, architecture=model, model_args=arguments, counting=counting))
            used = True
    if not used:
        raise PlanError(f"--model {model}: found a config for every checkpoint, expected a lone file; drop the option")
    return opened


def told_arguments(model: str | None, items: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that `--model-args` says of the model that `--model` names.

    Raises:
        PlanError: an item is malformed, or no model is named.
    """
    arguments = parse_arguments(items)
    if arguments and model is None:
        raise PlanError("--model-args: found without --model, expected both; name the timm model with --model")
    return arguments


def parse_arguments(items: Sequence[str]) -> dict[str, Any]:
    """Parse `KEY=VALUE` items; a value is a Python literal, or else a string, as timm's own `--model-kwargs` reads it.

    Raises:
        PlanError: an item is malformed.
    """
    malformed = [item for item in items if not item.partition("=")[0].isidentifier() or "=" not in item]
    if malformed:
        raise PlanError(
            [f"--model-args {item}: expected KEY=VALUE, such as depth=4 or channels=[24,48]" for item in malformed]
        )
    return {key: _literal(value) for key, _, value in (item.partition("=") for item in items)}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
