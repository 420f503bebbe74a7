"""Commands that messages name: each on a line of its own, quoted for the shell, to be given as it stands."""

from __future__ import annotations

import os
import shlex
from itertools import count
from pathlib import Path

from growtool.finetune.options.merging import RUN_CONFIG


def command(*words: object) -> str:
    """`growtool WORDS`, started as this process was: by torchrun where that is so, on as many processes."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = ["growtool"]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        start = ["torchrun", "--nproc-per-node", here, "-m", "growtool"]
    return shlex.join([*start, *map(str, words)])


def resuming(folder: Path, *more: object) -> str:
    """The command that goes on with a run, by the configuration in its folder."""
    return command("finetune", "-o", folder, "--resume", "auto", *more)


def beginning_anew(folder: Path, checkpoint: Path | None, *more: object) -> str:
    """The command that begins a new run with the options of this one, from its start or from one of its checkpoints."""
    output = next(path for n in count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())
    start = [] if checkpoint is None else [checkpoint]
    return command("finetune", *start, "-c", folder / RUN_CONFIG, "-o", output, *more)
