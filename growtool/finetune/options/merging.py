"""A run's configuration from a YAML file, from `key=value` words and from flags; later ones win."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from growtool.errors import PlanError
from growtool.finetune.config import ALTERNATIVES, RunConfig
from growtool.finetune.options.settings import KINDS, Settings, flag_of
from growtool.hub.names import named
from growtool.plan.document import Document, Loc, parse_word, read_document
from growtool.plan.explain import explain, validated
from growtool.plan.load import placed, placed_checkpoint

RUN_CONFIG = "config.yaml"  # of a run, in its folder
RESOLVED = "resolved"  # what a run adds to its own config.yaml; ignored when that file configures another run
CHECKPOINTS = ("checkpoint", "kd_teacher")  # paths that may be names
PATHS = tuple(name for name, kind in KINDS.items() if name in CHECKPOINTS or kind == Path | None)
_NEEDED = {name: f"{field.description}" for name, field in RunConfig.model_fields.items() if field.is_required()}


class Layer(dict[str, Any]):
    """Options that were given together, and what messages call each: `run.yaml:2:1 lr`, `--set lr=1`."""

    def __init__(self, options: Mapping[str, Any], places: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        self.places = dict(places or {})


def read_config(path: Path) -> Layer:
    """The options in a YAML file, `config.yaml` of an earlier run included; relative paths start in the working folder.

    Raises:
        PlanError: the file is not such a mapping, or has keys that are no options, or values that are not theirs; all
            of them at once.
    """
    anything = frozenset({*Settings.model_fields, RESOLVED})
    document, values, _ = read_document(
        path, what="a configuration in YAML", need="a mapping of options, e.g. `lr: 3e-4`", optional=anything
    )
    options = {key: value for key, value in values.items() if key != RESOLVED}
    validated(document, options, Settings)
    if document.problems:
        raise PlanError(document.lines())
    return Layer(options, {name: document.place(name) for name in options})


def read_words(words: Sequence[str]) -> Layer:
    """`key=value` words as the YAML file would hold them; `opt_kwargs.betas=[0.9, 0.95]` reaches into a mapping.

    Raises:
        PlanError: a word is malformed, names no option, or gives it what it does not take; all of them at once.
    """
    options: dict[str, Any] = {}
    places, problems = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        name, _, inner = key.strip().replace("-", "_").partition(".")
        value, unfit = parse_word(text)
        problems += [f"--set {word}: {found}" for found in unfit]
        if not equals:
            problems.append(f"--set {word}: expected KEY=VALUE, such as hflip=0")
            continue
        places[name] = f"--set {word}"
        if inner:
            before = options.get(name)
            options[name] = {**(before if isinstance(before, dict) else {}), inner: value}
        else:
            options[name] = value
    try:
        Settings.model_validate(options)
    except ValidationError as error:
        problems += _problems(error, places, Settings)
    if problems:
        raise PlanError(problems)
    return Layer(options, places)


def make_config(*layers: Mapping[str, Any]) -> RunConfig:
    """The configuration that `layers` of options come to, the last one strongest.

    Raises:
        PlanError: a value is not what its option takes, what every run needs is missing, or options contradict each
            other; all of them at once.
    """
    merged = merge(*layers)
    options = {name: value for name, value in merged.items() if value is not None or name not in _NEEDED}
    checkpoint = options.get("checkpoint")
    options.setdefault("output", _named_after(checkpoint) if isinstance(checkpoint, str | Path) else Path())
    try:
        return RunConfig.model_validate(options)
    except ValidationError as error:
        raise PlanError(_problems(error, merged.places, RunConfig)) from error


def _problems(error: ValidationError, places: Mapping[str, str], section: type[Settings]) -> list[str]:
    """What pydantic found, one line each, with what messages call the options it is about."""
    lines = []
    for details in error.errors(include_url=False):
        names = [part for part in details["loc"] if isinstance(part, str)]
        called = " and ".join(places.get(name) or flag_of(name) for name in names)
        hint = "; give it as an option or in the file" if details["type"] == "missing" else ""
        lines.append(f"{called}: {explain(details, section)}{hint}")
    return lines


def continued(*layers: Mapping[str, Any]) -> Layer:
    """The options of the run that `layers` say to resume, which stand below them; none where there is no run yet.

    Raises:
        PlanError: there is no run, and no checkpoint to begin one from; or its configuration names a file that is gone.
    """
    asked = merge(*layers)
    if asked.get("resume") is None:
        return Layer({})
    output, checkpoint = asked.get("output"), asked.get("checkpoint")
    if output is None and checkpoint is None:
        raise PlanError(f"--resume {asked['resume']}: expected the folder of the run as well; add -o RUN")
    path = (_named_after(checkpoint) if output is None else Path(output)) / RUN_CONFIG
    if not path.is_file():
        if checkpoint is not None:
            return Layer({})
        raise PlanError(
            f"--resume {asked['resume']}: found no run in {path.parent}, which has no {RUN_CONFIG}, expected one to go "
            "on with; correct --output, or name CHECKPOINT and --data to begin a run there"
        )
    options = read_config(path)
    problems = [
        f"{path}: {key}: {options[key]} starts in the folder the run was begun in, and is not here; resume it there, "
        f"or name it with {flag_of(key)}"
        for key in PATHS
        if asked.get(key) is None and key != "output" and _is_elsewhere(key, options.get(key))
    ]
    if problems:
        raise PlanError(problems)
    return Layer({key: value for key, value in options.items() if key != "output"}, options.places)


def _is_elsewhere(key: str, text: str | None) -> bool:
    """Whether a path, as runs of before wrote it, is relative to a folder that is not the working one."""
    if text is None or (key in CHECKPOINTS and named(text)):
        return False
    return not placed(text, Path()).is_absolute() and not placed(text, Path()).exists()


def merge(*layers: Mapping[str, Any]) -> Layer:
    """All options of `layers`, the last one strongest; `steps` there takes the place of `epochs` before it."""
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer in layers:
        for group in ALTERNATIVES:
            if any(layer.get(name) is not None for name in group):
                merged = {name: value for name, value in merged.items() if name not in group}
        merged |= layer
        places |= layer.places if isinstance(layer, Layer) else dict.fromkeys(layer, "")
    return Layer(merged, places)


def placed_options(options: Mapping[str, Any], base: Path, *, words: Collection[str] = ()) -> dict[str, Any]:
    """The options of a file in the folder `base`, their paths placed; `words` stand for something else than a path."""
    paths = {key: options[key] for key in PATHS if isinstance(options.get(key), str) and options[key] not in words}
    found = {**options, **{key: str(_placing(key)(text, base)) for key, text in paths.items()}}
    if options.get("plugins"):
        found["plugins"] = [str(placed(str(text), base)) for text in options["plugins"]]
    return found


def _placing(key: str) -> Callable[[str, Path], str | Path]:
    return placed_checkpoint if key in CHECKPOINTS else placed


def read_layer(document: Document, loc: Loc, content: Mapping[str, Any] | None, words: Collection[str] = ()) -> Layer:
    """The options that stand at `loc` in a file, their paths placed in its folder but for `words`."""
    options = placed_options(content or {}, document.path.parent, words=words)
    return Layer(options, {name: document.place(*loc, name) for name in options})


def require_sound(layers: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Look at the options of each training in a file together, before the first one begins.

    Args:
        layers: by where the training stands in the file, `schedule.yaml:3:5 stages[0].train`.
        path: the file.

    Raises:
        PlanError: what is missing, and what contradicts each other, in all of them.
    """
    problems: list[str] = []
    for place, layer in layers.items():
        try:
            make_config({"checkpoint": path, "output": path}, layer)
        except PlanError as error:
            problems += [found if found.startswith(f"{path}:") else f"{place}: {found}" for found in error.problems]
    if problems:
        raise PlanError(list(dict.fromkeys(problems)))


def _named_after(checkpoint: Path | str | None) -> Path:
    if name := named(str(checkpoint)):
        return Path(f"{name.label}-finetuned")
    path = Path(os.path.abspath(str(checkpoint).removeprefix("local-dir:")))  # noqa: PTH100 (links keep their names)
    return Path(f"{path.stem if path.suffix == '.safetensors' else path.name}-finetuned")
