"""The commands that messages tell users to give, quoted for the shell; each should stand on a line of its own."""

from __future__ import annotations

import os
import shlex
from itertools import count
from pathlib import Path

from growtool.finetune.options.merging import RUN_CONFIG


def command(*words: object) -> str:
    """Return the command `growtool WORDS`, under torchrun with as many processes if this one runs under torchrun."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = ["growtool"]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        start = ["torchrun", "--nproc-per-node", here, "-m", "growtool"]
    return shlex.join([*start, *map(str, words)])


def resuming(folder: Path, *more: object) -> str:
    """Return the command that resumes the run in `folder`, with `more` words at its end."""
    return command("finetune", "-o", folder, "--resume", "auto", *more)


def beginning_anew(folder: Path, checkpoint: Path | None, *more: object) -> str:
    """Return the command that begins a new run with the options of the run in `folder`.

    Args:
        folder: the run's folder; the new one stands beside it, as `FOLDER-2` or with the next number that is free.
        checkpoint: what the new run starts from; None for the checkpoint that this run started from.
        more: words to add at the end.
    """
    output = next(path for n in count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())
    start = [] if checkpoint is None else [checkpoint]
    return command("finetune", *start, "-c", folder / RUN_CONFIG, "-o", output, *more)
