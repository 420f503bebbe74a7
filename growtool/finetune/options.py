"""A run's configuration from a YAML file, from `key=value` words and from flags; later ones win."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from growtool.errors import PlanError
from growtool.finetune.config import ALTERNATIVES, PATHS, RunConfig
from growtool.plan.document import read_document, read_scalar
from growtool.plan.placing import placed

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from growtool.plan.document import Document, Loc

RUN_CONFIG = "config.yaml"  # of a run, in its folder
RESOLVED = "resolved"  # what a run adds to its own config.yaml; ignored when that file configures another run


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file, `config.yaml` of an earlier run included; relative paths start in the working folder.

    Raises:
        PlanError: the file is not such a mapping, or has keys that are no options; all of them at once.
    """
    anything = frozenset({f.name for f in fields(RunConfig)} | {RESOLVED})
    document, values, _ = read_document(
        path, what="a configuration in YAML", need="a mapping of options, e.g. `lr: 3e-4`", optional=anything
    )
    note_unfit(document, (), values)
    if document.problems:
        raise PlanError(document.lines())
    return {key: value for key, value in values.items() if key != RESOLVED}


def note_unfit(document: Document, loc: Loc, options: Mapping[str, Any]) -> None:
    """Note in `document` the `options` that stand at `loc` and that there are not, or that have another type."""
    types = get_type_hints(RunConfig)
    for key, value in options.items():
        if unknown := unknown_option(key):
            document.note((*loc, key), unknown, at_key=True)
        elif key != RESOLVED:
            try:
                TypeAdapter(types[key]).validate_python(value)
            except ValidationError as error:
                document.note((*loc, key), _unfit(error.errors(include_url=False)[0]))


def read_words(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as the YAML file would hold them; `opt_kwargs.betas=[0.9, 0.95]` reaches into a mapping.

    Raises:
        PlanError: a word is malformed or names no option; all of them at once.
    """
    options: dict[str, Any] = {}
    problems = []
    for word in words:
        key, equals, value = word.partition("=")
        name, _, inner = key.strip().replace("-", "_").partition(".")
        if not equals:
            problems.append(f"--set {word}: expected KEY=VALUE, such as hflip=0")
        elif unknown := unknown_option(name):
            problems.append(f"--set {word}: {unknown}")
        elif inner:
            options.setdefault(name, {})[inner] = read_scalar(value)
        else:
            options[name] = read_scalar(value)
    if problems:
        raise PlanError(problems)
    return options


def make_config(*layers: Mapping[str, Any]) -> RunConfig:
    """The configuration that `layers` of options come to, the last one strongest.

    Raises:
        PlanError: a value has the wrong type, or what every run needs is missing; all of them at once.
    """
    merged = merge(*layers)
    merged |= {key: Path(merged[key]) for key in PATHS if isinstance(merged.get(key), str)}
    problems = [
        f"{shown}: missing, expected {what}; give it on the command line or in the file of --config"
        for key, shown, what in (
            ("checkpoint", "CHECKPOINT", "the checkpoint to train"),
            ("data", "--data", "a folder of images"),
        )
        if merged.get(key) is None
    ]
    if not problems:
        merged["output"] = merged.get("output") or _named_after(merged["checkpoint"])
        try:
            return TypeAdapter(RunConfig).validate_python(merged)
        except ValidationError as error:
            problems = [f"{details['loc'][0]}: {_unfit(details)}" for details in error.errors(include_url=False)]
    raise PlanError(problems)


def continued(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run that `layers` say to resume, which stand below them; none where there is no run yet.

    Raises:
        PlanError: there is no run, and no checkpoint to begin one from; or its configuration names a file that is gone.
    """
    asked = merge(*layers)
    if asked.get("resume") is None:
        return {}
    output, checkpoint = asked.get("output"), asked.get("checkpoint")
    if output is None and checkpoint is None:
        raise PlanError(f"--resume {asked['resume']}: expected the folder of the run as well; add -o RUN")
    path = (_named_after(checkpoint) if output is None else Path(output)) / RUN_CONFIG
    if not path.is_file():
        if checkpoint is not None:
            return {}
        raise PlanError(
            f"--resume {asked['resume']}: found no run in {path.parent}, which has no {RUN_CONFIG}, expected one to go "
            "on with; correct --output, or name CHECKPOINT and --data to begin a run there"
        )
    options = read_config(path)
    problems = [
        f"{path}: {key}: {options[key]} starts in the folder the run was begun in, and is not here; resume it there, "
        f"or name it with {flag}"
        for key, flag in PATHS.items()
        if asked.get(key) is None and key != "output" and _is_elsewhere(options.get(key))
    ]
    if problems:
        raise PlanError(problems)
    return {key: value for key, value in options.items() if key != "output"}


def _is_elsewhere(text: str | None) -> bool:
    """Whether a path, as runs of before wrote it, is relative to a folder that is not the working one."""
    return text is not None and not placed(text, Path()).is_absolute() and not placed(text, Path()).exists()


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `layers`, the last one strongest; `steps` there takes the place of `epochs` before it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for group in ALTERNATIVES:
            if any(layer.get(name) is not None for name in group):
                merged = {name: value for name, value in merged.items() if name not in group}
        merged |= layer
    return merged


def placed_options(options: Mapping[str, Any], base: Path, *, words: Collection[str] = ()) -> dict[str, Any]:
    """The options of a file in the folder `base`, their paths placed; `words` stand for something else than a path."""
    paths = {key: options[key] for key in PATHS if isinstance(options.get(key), str) and options[key] not in words}
    found = {**options, **{key: str(placed(text, base)) for key, text in paths.items()}}
    if options.get("plugins"):
        found["plugins"] = [str(placed(str(text), base)) for text in options["plugins"]]
    return found


def unknown_option(name: str) -> str | None:
    """Why `name` is no option; None where it is one."""
    known = [field.name for field in fields(RunConfig)]
    if name in (*known, RESOLVED):
        return None
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `growtool finetune --help` and config.yaml of a run list them"
    return f"found the option {name!r}, which there is not{hint}"


def _unfit(details: ErrorDetails) -> str:
    if details["type"] == "path_type":
        return f"found {details['input']!r}, expected a path"
    return f"found {details['input']!r}: {details['msg'][0].lower()}{details['msg'][1:]}"


def _named_after(checkpoint: Path | str | None) -> Path:
    path = Path(os.path.abspath(str(checkpoint).removeprefix("local-dir:")))  # noqa: PTH100 (links keep their names)
    return Path(f"{path.stem if path.suffix == '.safetensors' else path.name}-finetuned")
