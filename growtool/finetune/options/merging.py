"""A run's configuration, merged from a YAML file, from `key=value` words and from flags; later options win."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from growtool.errors import PlanError
from growtool.finetune.config import ALTERNATIVES, RunConfig
from growtool.finetune.options.settings import KINDS, Settings, flag_of
from growtool.hub.names import LOCAL, named
from growtool.plan.document import Document, Loc, parse_word, read_document
from growtool.plan.explain import explain, require_valid
from growtool.plan.load import checkpoint_in, path_in

RUN_CONFIG = "config.yaml"  # of a run, in its folder
RESOLVED = "resolved"  # what a run adds to its own config.yaml; ignored when that file configures another run
CHECKPOINTS = ("checkpoint", "kd_teacher")  # options that take a path or the name of a checkpoint in the hub
PATHS = tuple(name for name, kind in KINDS.items() if name in CHECKPOINTS or kind == Path | None)
_NEEDED = frozenset(name for name, field in RunConfig.model_fields.items() if field.is_required())


class Layer(dict[str, Any]):
    """Options that were given together, in a file or on the command line.

    Attributes:
        places: what messages call each option: `run.yaml:2:1 lr`, `--set lr=1`.
    """

    def __init__(self, options: Mapping[str, Any], places: Mapping[str, str] | None = None) -> None:
        super().__init__(options)
        self.places = dict(places or {})


def read_config(path: Path) -> Layer:
    """Read the options in a YAML file, which may be the `config.yaml` of an earlier run.

    Relative paths in it start in the working folder, not in the folder of the file.

    Raises:
        PlanError: the file is no mapping, or has unknown options or wrong values; one problem for each.
    """
    anything = frozenset({*Settings.model_fields, RESOLVED})
    document = read_document(
        path, what="a configuration in YAML", need="a mapping of options, e.g. `lr: 3e-4`", optional=anything
    )
    document.content.pop(RESOLVED, None)
    require_valid(document, Settings)
    return Layer(document.content, {name: document.place(name) for name in document.content})


def read_words(words: Sequence[str]) -> Layer:
    """Return the options that `key=value` words give, as a YAML file would hold them.

    `opt_kwargs.betas=[0.9, 0.95]` sets a key of a mapping, and leaves those that earlier words set.

    Raises:
        PlanError: words are malformed, name unknown options, or give wrong values; one problem for each.
    """
    options: dict[str, Any] = {}
    places, problems = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        name, _, inner = key.strip().replace("-", "_").partition(".")
        value, findings = parse_word(text)
        problems += [f"--set {word}: {finding}" for finding in findings]
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
    """Merge `layers` of options, the last one strongest, and return them as a configuration.

    Raises:
        PlanError: there are wrong values, options that every run needs are missing, or options contradict each other;
            one problem for each.
    """
    merged = merge(*layers)
    # An option that is needed counts as missing where it is None: a flag that was not given.
    options = {name: value for name, value in merged.items() if value is not None or name not in _NEEDED}
    checkpoint = options.get("checkpoint")
    options.setdefault("output", _named_after(checkpoint) if isinstance(checkpoint, str | Path) else Path())
    try:
        return RunConfig.model_validate(options)
    except ValidationError as error:
        raise PlanError(_problems(error, merged.places, RunConfig)) from error


def _problems(error: ValidationError, places: Mapping[str, str], section: type[Settings]) -> list[str]:
    """Return pydantic's findings, one line each, with the places of the options or else their flags."""
    lines = []
    for details in error.errors(include_url=False):
        # A finding about several options has all their names as its place, see `RunConfig`.
        names = [part for part in details["loc"] if isinstance(part, str)]
        called = " and ".join(places.get(name) or flag_of(name) for name in names)
        hint = "; give it as an option or in the file" if details["type"] == "missing" else ""
        lines.append(f"{called}: {explain(details, section)}{hint}")
    return lines


def continued(*layers: Mapping[str, Any]) -> Layer:
    """Return the options of the earlier run that `layers` resume, to be merged below them.

    Returns:
        Its options but for `output`; an empty layer if `layers` resume none, or if there is none yet.

    Raises:
        PlanError: there is no run and no checkpoint to begin one from, or the earlier run names files by paths that do
            not hold in the working folder.
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
    """Return whether an option of an earlier run is a relative path that does not exist in the working folder."""
    if text is None or (key in CHECKPOINTS and named(text)):
        return False
    return not path_in(text, Path()).is_absolute() and not path_in(text, Path()).exists()


def merge(*layers: Mapping[str, Any]) -> Layer:
    """Return all options of `layers`, the last one strongest."""
    merged: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer in layers:
        for group in ALTERNATIVES:  # `steps` of a later layer takes the place of `epochs` of an earlier one
            if any(layer.get(name) is not None for name in group):
                merged = {name: value for name, value in merged.items() if name not in group}
        merged |= layer
        places |= layer.places if isinstance(layer, Layer) else dict.fromkeys(layer, "")
    return Layer(merged, places)


def placed_options(options: Mapping[str, Any], base: Path, *, words: Collection[str] = ()) -> dict[str, Any]:
    """Return the options of a file with their relative paths joined to the folder of the file.

    Args:
        base: the folder of the file.
        words: values that stand for something else than a path, and stay.
    """
    result = dict(options)
    for key in PATHS:
        text = options.get(key)
        if isinstance(text, str) and text not in words:
            result[key] = checkpoint_in(text, base) if key in CHECKPOINTS else str(path_in(text, base))
    if options.get("plugins"):
        result["plugins"] = [str(path_in(str(text), base)) for text in options["plugins"]]
    return result


def read_layer(document: Document, loc: Loc, content: Mapping[str, Any] | None, words: Collection[str] = ()) -> Layer:
    """Return the options that stand at `loc` in a file.

    Args:
        loc: the place of the options in it.
        words: see `placed_options`.
    """
    options = placed_options(content or {}, document.path.parent, words=words)
    return Layer(options, {name: document.place(*loc, name) for name in options})


def require_sound(layers: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Check that the options of each training in a file go together, before the first training begins.

    Args:
        layers: the options by the place of the training in the file, `schedule.yaml:3:5 stages[0].train`.

    Raises:
        PlanError: options are missing or contradict each other, in any of the trainings; one problem for each.
    """
    problems: list[str] = []
    for place, layer in layers.items():
        try:
            # The checkpoint and the output of a training follow from the file; any path does in their place here.
            make_config({"checkpoint": path, "output": path}, layer)
        except PlanError as error:
            problems += [found if found.startswith(f"{path}:") else f"{place}: {found}" for found in error.problems]
    if problems:
        raise PlanError(list(dict.fromkeys(problems)))  # options common to several trainings are reported once


def _named_after(checkpoint: Path | str | None) -> Path:
    """Return the default folder of a run: in the working folder, with the name of its checkpoint."""
    if name := named(str(checkpoint)):
        return Path(f"{name.label}-finetuned")
    path = Path(os.path.abspath(str(checkpoint).removeprefix(LOCAL)))  # noqa: PTH100 (links keep their names)
    return Path(f"{path.stem if path.suffix == '.safetensors' else path.name}-finetuned")
