"""The advice for a run that cannot go on: the commands that continue it, or begin another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from growtool.errors import PlanError
from growtool.finetune.commands import beginning_anew, resuming
from growtool.finetune.config import STATELESS, RunConfig
from growtool.finetune.parallel.device import is_out_of_memory
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.resume import readable_states
from growtool.finetune.update.loop import Diverged


def after_divergence(error: Diverged, config: RunConfig, folder: RunFolder) -> str:
    """Return the message for a run that diverged, with the command that goes on from its last good weights."""
    checkpoint, held = _last_good(folder)
    assert config.lr is not None, "what was left unset is chosen before a run begins"
    gentler = ["--lr", f"{config.lr / 10:g}"]
    if config.autocast == "float16":
        gentler += ["--amp-dtype", "bfloat16"]
    advice = (
        f"{error}; {held}; the rate (--lr, now {config.lr:g}) is too high or the warm-up too short: begin a new run "
        f"there, with\n{beginning_anew(folder.root, checkpoint, *gentler)}"
    )
    if error.skippable and config.nonfinite == "stop":
        advice += f"\nor leave such updates out, with\n{resuming(folder.root, '--nonfinite', 'skip')}"
    return advice


@contextmanager
def advising_on_memory(
    config: RunConfig, folder: RunFolder, device: torch.device, world: World, step: Callable[[], int] | None = None
) -> Iterator[None]:
    """Turn errors of the block that say that memory ran out into one that says what to change.

    Args:
        step: returns the updates done; None while the run is being prepared, and its folder not written yet.

    Raises:
        PlanError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reached = "before the first update" if step is None else f"at step {step()}"
        written = folder if step is not None or (config.resume and folder.config.is_file()) else None
        raise PlanError(
            f"memory of {device} has run out {reached} with --batch-size {config.batch_size} "
            f"({str(error).splitlines()[0][:120] if str(error) else type(error).__name__}); "
            f"{_to_save_memory(config, written, world)}"
        ) from error


def _to_save_memory(config: RunConfig, folder: RunFolder | None, world: World) -> str:
    """Return what to change so that memory suffices; `folder` is None if there is no run to continue."""
    images = config.batch_size // world.size
    parts = next((n for n in range(config.grad_accum_steps + 1, images + 1) if images % n == 0), None)
    resumable: list[tuple[str, object, str]] = []  # flags, values and effects of what may change within a run
    if parts is not None:
        resumable.append(("--grad-accum-steps", parts, "the same images per update, in smaller parts"))
    if world.size > 1 and config.engine != "fsdp":
        resumable.append(("--engine", "fsdp", "weights in shards"))
    anew: list[str] = []  # what takes a new run
    if parts is None and config.batch_size > 1:
        anew.append(f"--batch-size {config.batch_size // 2}")
    if not config.amp:
        anew.append("--amp")
    if config.opt != STATELESS:
        anew.append(f"--opt {STATELESS} (no optimizer state)")
    if folder is None:
        return "give the same command again with " + " or ".join(
            [*(f"{flag} {value} ({effect})" for flag, value, effect in resumable), *anew]
        )
    advice = [f"go on with {effect}:\n{resuming(folder.root, flag, value)}" for flag, value, effect in resumable]
    if anew:
        command = beginning_anew(folder.root, _last_good(folder)[0])
        advice.append(f"begin a new run there, with {' or '.join(anew)} added to\n{command}")
    return "\nor ".join(advice)


def _last_good(folder: RunFolder) -> tuple[Path | None, str]:
    """Return the latest checkpoint of a run, and a clause that names it. All saved weights are finite."""
    states, _ = readable_states(folder)
    if not states:
        return None, "no checkpoint was saved yet"
    latest, course = states[-1]
    if course.batch:
        return latest, f"{latest} is the last good checkpoint"
    return folder.last, f"{folder.last} holds epoch {course.epoch}, the last good one"
