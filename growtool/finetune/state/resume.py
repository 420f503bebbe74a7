"""Resuming a run: the checkpoint that it continues from, and whether its configuration is still the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from growtool.checkpoint import WEIGHTS
from growtool.checkpoint.beside import STATE
from growtool.checkpoint.documents import UNLIKE
from growtool.checkpoint.header import read_header
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.options.defaults import AUTOMATIC, DEFAULTS, Choice, from_document
from growtool.finetune.options.settings import Settings
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.snapshot import read_course

# Options that may change when a run is resumed, since they change nothing that is computed, beyond rounding.
_FREE = {
    "resume", "force", "workers", "device", "output", "checkpoint", "data", "val_data", "kd_teacher", "log",
    "log_interval", "recovery_interval", "checkpoint_hist", "torchcompile", "tf32", "channels_last", "engine",
    "grad_accum_steps", "nonfinite", "eval_interval", "plugins",
}  # fmt: skip
_ROUNDING = ("grad_accum_steps", "engine", "torchcompile", "tf32", "channels_last", "processes", "versions")
"""Options and resolved values that change rounding."""


def find_checkpoint(config: RunConfig, folder: RunFolder) -> Path | None:
    """Return the checkpoint that `--resume` names, or None to begin a new run.

    `auto` names the readable checkpoint with the most updates. It begins a new run if there is no run in `folder`, or
    if the run there has saved nothing yet.

    Raises:
        PlanError: the output is not empty and holds no run, or the path is not in this run.
        CheckpointError: the path is not a checkpoint of a run, or all checkpoints of the run are damaged or missing.
    """
    if config.resume is None:
        return None
    if config.resume != "auto":
        path = Path(config.resume)
        if path.resolve().parent not in (folder.root.resolve(), folder.checkpoints.resolve()):
            raise PlanError(
                f"--resume {path}: lies outside the run in {folder.root}, expected one of its checkpoints; name that "
                "run with --output, or start a new one from the checkpoint"
            )
        read_course(path)
        return path
    if not folder.config.is_file():
        folder.require_free(config.checkpoint, force=False)
        return None
    states, problems = readable_states(folder)
    if states:
        return states[-1][0]
    if folder.best.exists() or folder.last.exists():
        problems.append(
            f"{folder.checkpoints}: found no checkpoint to resume from, expected one beside best/ and last/; restore "
            "it, or move these elsewhere and begin a new run"
        )
    if problems:
        raise CheckpointError(problems)
    return None


def readable_states(folder: RunFolder) -> tuple[list[tuple[Path, RunProgress]], list[str]]:
    """Return the checkpoints that the run can go on from, each with its progress, and the problems of the others.

    The last one has the most updates, and is rather in `checkpoints/` than `last/`.
    """
    problems: list[str] = []
    states: list[tuple[Path, RunProgress]] = []
    for path in (folder.last, *folder.saved()):
        try:
            if (path / STATE).is_file():
                course, _ = read_course(path)
                read_header(path / WEIGHTS)  # raises for a file that was cut short, too
                states.append((path, course))
        except CheckpointError as error:
            problems.extend(error.problems)
    return sorted(states, key=lambda state: state[1].step), problems


def require_same_run(folder: RunFolder, settings: Mapping[str, Any]) -> list[str]:
    """Check that `settings` configure the run in `folder`, apart from options that change nothing but rounding.

    Args:
        folder: the run's folder with its `config.yaml`.
        settings: the content that `config.yaml` would have now.

    Returns:
        A sentence for each difference that changes rounding: the results will differ in their last bits.

    Raises:
        PlanError: other options, weights or images; a line for each difference.
        CheckpointError: the run's `config.yaml` cannot be read.
    """
    before, now = _effective(read_settings(folder)), _effective(settings)
    resolved = before["resolved"]
    problems = [
        f"--resume: {key} was {before.get(key)!r} in {folder.root}, found {value!r}; a run keeps its settings: use the "
        "same, or start a new one from its last/"
        for key, value in now.items()
        if key not in _FREE | {"resolved"} and before.get(key) != value
    ]
    for key, what in (
        ("source_sha256", "the weights of CHECKPOINT"),
        ("teacher_sha256", "the weights of --kd-teacher"),
        ("steps_per_epoch", "the updates of an epoch"),
        ("train_images", "the number of training images"),
        ("classes", "the classes"),
    ):
        if resolved.get(key) != settings["resolved"][key]:
            problems.append(
                f"--resume: {what}: found {settings['resolved'][key]}, expected {resolved.get(key)} as when the run in "
                f"{folder.root} began; restore them, or start a new one from its last/"
            )
    if problems:
        raise PlanError(problems)
    return [
        f"{key} was {old!r} when the run began and is {new!r} now: it goes on, but no longer to the bit"
        for values_now, values_before in ((settings, before), (settings["resolved"], resolved))
        for key in _ROUNDING
        if key in values_now and (old := values_before.get(key)) != (new := values_now[key])
    ]


def as_it_began(config: RunConfig, folder: RunFolder) -> tuple[RunConfig, dict[str, Choice] | None]:
    """Fill in the unset options of a resumed run with the values that the run in `folder` used when it began.

    The defaults may be chosen differently by now, and a run must keep its own.

    Returns:
        The configuration, and those of the values that the run had chosen itself; None instead for a new run.

    Raises:
        CheckpointError: the run's `config.yaml` cannot be read.
    """
    if config.resume is None or not folder.config.is_file():
        return config, None
    settings = read_settings(folder)
    before = _effective(settings)
    warmed = config.warmup_epochs is not None or config.warmup_steps is not None
    unset = [
        name
        for name in AUTOMATIC
        if getattr(config, name) is None and not (warmed and name in ("warmup_epochs", "warmup_steps"))
    ]
    chosen = from_document(settings["resolved"].get(DEFAULTS, {}))
    return (
        config.model_copy(update={name: before[name] for name in unset}),
        {name: choice for name, choice in chosen.items() if name in unset},
    )


def read_settings(folder: RunFolder) -> dict[str, Any]:
    """Return the content of a run's `config.yaml`.

    Raises:
        CheckpointError: the file is missing, damaged, or not the configuration of a run.
    """
    try:  # beyond parsing: access and validate all that others will take from the content
        settings: dict[str, Any] = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        settings["resolved"]["steps"]
        effective = _effective(settings)
        Settings.model_validate({name: effective[name] for name in Settings.model_fields})
        from_document(settings["resolved"].get(DEFAULTS, {}))
    except (OSError, yaml.YAMLError, RecursionError, *UNLIKE) as error:
        raise CheckpointError(
            f"{folder.config}: cannot be read ({type(error).__name__}: {error}), expected the configuration of the run "
            "that is to be resumed; name the run with --output"
        ) from error
    return settings


def _effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a run used, including the values that it chose for unset ones.

    Options that the growtool of that run did not have yet get their defaults of today.
    """
    chosen = settings["resolved"].get(DEFAULTS)
    values = Settings().model_dump(mode="json", exclude={"checkpoint", "data", "output"}) | dict(settings)
    if chosen is None:  # from before runs chose anything: an unset option meant no clipping, and no warm-up
        warmed = values["warmup_epochs"] is not None or values["warmup_steps"] is not None
        values |= {"clip_grad": values["clip_grad"] or 0} | ({} if warmed else {"warmup_steps": 0})
    return values | {name: entry["value"] for name, entry in (chosen or {}).items()}
