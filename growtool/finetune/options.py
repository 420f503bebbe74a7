"""A run's configuration from a YAML file, from `key=value` words and from flags; later ones win."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from growtool.errors import PlanError
from growtool.finetune.config import ALTERNATIVES, RunConfig
from growtool.plan.document import read_document, read_scalar
from growtool.plan.placing import placed

RESOLVED = "resolved"  # what a run adds to its own config.yaml; ignored when that file configures another run
_PATHS = ("checkpoint", "data", "val_data", "output", "kd_teacher")


def read_config(path: Path) -> dict[str, Any]:
    """The options in a YAML file, `config.yaml` of an earlier run included; relative paths start in the working folder.

    Raises:
        PlanError: the file is not such a mapping, or has keys that are no options; all of them at once.
    """
    anything = frozenset({f.name for f in fields(RunConfig)} | {RESOLVED})
    document, values, _ = read_document(
        path, what="a configuration in YAML", need="a mapping of options, e.g. `lr: 3e-4`", optional=anything
    )
    for key in values:
        if unknown := unknown_option(key):
            document.problems.append((document.keys[(key,)], (key,), unknown))
    if document.problems:
        raise PlanError(document.lines())
    return {key: value for key, value in values.items() if key != RESOLVED}


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
    merged |= {key: Path(merged[key]) for key in _PATHS if isinstance(merged.get(key), str)}
    problems = [
        f"{shown}: missing, expected {what}; give it on the command line or in the file of --config"
        for key, shown, what in (
            ("checkpoint", "CHECKPOINT", "the checkpoint to train"),
            ("data", "--data", "a folder of images"),
        )
        if merged.get(key) is None
    ]
    if not problems:
        merged["output"] = merged.get("output") or Path(f"{_stem(merged['checkpoint'])}-finetuned")
        try:
            return TypeAdapter(RunConfig).validate_python(merged)
        except ValidationError as error:
            problems = [
                f"{details['loc'][0]}: found {details['input']!r}: {details['msg'][0].lower()}{details['msg'][1:]}"
                for details in error.errors(include_url=False)
            ]
    raise PlanError(problems)


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
    paths = {key: options[key] for key in _PATHS if isinstance(options.get(key), str) and options[key] not in words}
    return {**options, **{key: str(placed(text, base)) for key, text in paths.items()}}


def unknown_option(name: str) -> str | None:
    """Why `name` is no option; None where it is one."""
    known = [field.name for field in fields(RunConfig)]
    if name in (*known, RESOLVED):
        return None
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `growtool finetune --help` and config.yaml of a run list them"
    return f"found the option {name!r}, which there is not{hint}"


def _stem(checkpoint: Path) -> str:
    path = Path(str(checkpoint).removeprefix("local-dir:")).resolve()
    return path.stem if path.suffix == ".safetensors" else path.name
