"""The folder of a workflow of several trainings: held by one process, begun once, gone on with after a signal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from growtool.checkpoint.staging import write_text
from growtool.errors import PlanError
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.lock import LOCK, locked
from growtool.finetune.stopping import StopRequest, continuing_with, stop_on_signals


@contextmanager
def held(output: Path, world: World, line: str) -> Iterator[StopRequest]:
    """Hold a folder, and turn signals into a request to stop, until the block ends.

    Of several processes, the first one holds it. A training that is stopped in the block names `line`, the command that
    goes on with the workflow.

    Raises:
        PlanError: another process holds the folder.
    """
    with (
        locked(output) if world.is_main else nullcontext(),
        continuing_with(line),
        stop_on_signals(patient=world.size > 1) as request,
    ):
        yield request


def begin(copy: Path, text: str, line: str, *, begun: bool) -> None:
    """Write a copy of the workflow's file into a folder that holds nothing else.

    Raises:
        PlanError: the folder is not empty; if a workflow has begun in it, `line` is told, which goes on with that.
    """
    output = copy.parent
    if any(path.name != LOCK for path in output.iterdir()):
        going_on = f", or go on with\n{line}" if begun else ""
        raise PlanError(f"--output {output}: it exists and is not empty; choose another place{going_on}")
    write_text(copy, text)
