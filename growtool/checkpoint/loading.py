"""How timm loads a checkpoint that was written: the line that is told at the end of growing and of training."""

from __future__ import annotations

import shlex
from pathlib import Path

from growtool.checkpoint.folder import is_single_file
from growtool.checkpoint.reach import home_module
from growtool.checkpoint.reader import open_checkpoint
from growtool.checkpoint.spec import ModelSpec


def loading_line(path: Path) -> str:
    """The Python that loads a checkpoint in timm; for one in template form the command that writes what timm loads.

    Args:
        path: of a checkpoint that was written, a folder or a single file.

    Raises:
        CheckpointError: it cannot be opened.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.form is not None:
        return f"growtool export {shlex.quote(str(path))} -o DENSE"
    spec = checkpoint.spec
    folder = f"timm.create_model({_literal(f'local-dir:{path}')}, pretrained=True)"
    line = _of_file(path, spec) if is_single_file(path) else folder
    needs = needed_import(spec)
    return f"import {needs}; {line}" if needs else line


def needed_import(spec: ModelSpec) -> str | None:
    """The module that has to be imported before timm knows the spec's model; None where timm alone does."""
    package = home_module(spec).split(".")[0]
    return None if package == "timm" else package


def _literal(text: str) -> str:
    """A string as Python reads it, in double quotes where nothing in it has to be escaped."""
    plain = repr(text) == f"'{text}'"
    return f'"{text}"' if plain else repr(text)


def _of_file(path: Path, spec: ModelSpec) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in spec.model_args.items())
    classes = spec.num_classes  # timm makes the classifier anew where the configuration has another number
    told = f", num_classes={classes}" if classes is not None else ""
    overlay = f"pretrained_cfg_overlay=dict(file={str(path)!r}{told})"
    return f'timm.create_model("{spec.architecture}", pretrained=True, {overlay}{arguments})'
