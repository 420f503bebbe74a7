"""Which checkpoint a run continues from, and whether it is the same run."""

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
from growtool.finetune.state.snapshot import read_course

# What may differ between the parts of one run: it changes nothing that is computed, beyond rounding.
_FREE = {
    "resume", "force", "workers", "device", "output", "checkpoint", "data", "val_data", "kd_teacher", "log",
    "log_interval", "recovery_interval", "checkpoint_hist", "torchcompile", "tf32", "channels_last", "engine",
    "grad_accum_steps", "nonfinite", "eval_interval", "plugins",
}  # fmt: skip


_ROUNDING = ("grad_accum_steps", "engine", "torchcompile", "tf32", "channels_last", "processes", "versions")


def find_checkpoint(config: RunConfig, folder: RunFolder) -> Path | None:
    """The checkpoint that `--resume` names; None to begin anew, which `auto` does where there is nothing yet.

    Raises:
        PlanError: the output holds something that is not a run, or the path named lies in another run.
        CheckpointError: the path named is no checkpoint of a run, or every checkpoint there is damaged or gone.
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
    problems: list[str] = []
    whole: dict[Path, int] = {}
    for path in [folder.last, *folder.saved()]:
        try:
            if (path / STATE).is_file():
                course, _ = read_course(path)
                read_header(path / WEIGHTS)
                whole[path] = course.step
        except CheckpointError as error:
            problems.extend(error.problems)
    if whole:
        return max(reversed(whole), key=whole.__getitem__)
    if folder.best.exists() or folder.last.exists():
        problems.append(
            f"{folder.checkpoints}: found no checkpoint to resume from, expected one beside best/ and last/; restore "
            "it, or move these elsewhere and begin a new run"
        )
    if problems:
        raise CheckpointError(problems)
    return None


def require_same_run(folder: RunFolder, settings: Mapping[str, Any]) -> list[str]:
    """Raise unless the run in `folder` was configured as `settings` say, in all that changes what is computed.

    Returns:
        What differs and changes rounding, from where on the run is not to the bit what it would have been.

    Raises:
        PlanError: one line for each difference.
        CheckpointError: the run's own configuration cannot be read.
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
        for found, then in ((settings, before), (settings["resolved"], resolved))
        for key in _ROUNDING
        if key in found and (old := then.get(key)) != (new := found[key])
    ]


def as_it_began(config: RunConfig, folder: RunFolder) -> tuple[RunConfig, dict[str, Choice] | None]:
    """The options of a resumed run that are left unset now, as the run in `folder` took them when it began.

    Returns:
        The configuration, and what the run had chosen itself; None for a new run.

    Raises:
        CheckpointError: the run's own configuration cannot be read.
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
    """The content of a run's config.yaml.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
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
    """What a run did: its options, those it chose itself, and of options that it did not know yet what they add.

    A run without a note on what it chose had all of them in its configuration, and left the others out.
    """
    chosen = settings["resolved"].get(DEFAULTS)
    values = Settings().model_dump(mode="json", exclude={"checkpoint", "data", "output"}) | dict(settings)
    if chosen is None:
        warmed = values["warmup_epochs"] is not None or values["warmup_steps"] is not None
        values |= {"clip_grad": values["clip_grad"] or 0} | ({} if warmed else {"warmup_steps": 0})
    return values | {name: entry["value"] for name, entry in (chosen or {}).items()}
