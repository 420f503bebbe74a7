"""What to do when a run cannot go on: commands that can be given as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from growtool.errors import PlanError
from growtool.finetune.commands import beginning_anew, resuming
from growtool.finetune.config import RunConfig
from growtool.finetune.parallel.device import is_out_of_memory
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.snapshot import read_course
from growtool.finetune.update.loop import Diverged


def after_divergence(error: Diverged, config: RunConfig, folder: RunFolder) -> str:
    """What was found not to be finite any more, and how to go on from the last good weights."""
    found, held = _last_good(folder)
    assert config.lr is not None, "what was left unset is chosen before a run begins"
    gentler = ["--lr", f"{config.lr / 10:g}"]
    if config.autocast == "float16":
        gentler += ["--amp-dtype", "bfloat16"]
    advice = (
        f"{error}; {held}; the rate (--lr, now {config.lr:g}) is too high or the warm-up too short: begin a new run "
        f"there, with\n{beginning_anew(folder.root, found, *gentler)}"
    )
    if error.skippable and config.nonfinite == "stop":
        advice += f"\nor leave such updates out, with\n{resuming(folder.root, '--nonfinite', 'skip')}"
    return advice


@contextmanager
def advising_on_memory(
    config: RunConfig, folder: RunFolder, device: torch.device, world: World, step: Callable[[], int] | None = None
) -> Iterator[None]:
    """While open, memory that runs out is an error that says what to change.

    Args:
        config, folder: of the run.
        device, world: that it is on.
        step: updates done; None while the run is being prepared and its folder not yet written.

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
    images = config.batch_size // world.size
    parts = next((n for n in range(config.grad_accum_steps + 1, images + 1) if images % n == 0), None)
    same: list[tuple[str, object, str]] = []
    same += [] if parts is None else [("--grad-accum-steps", parts, "the same images per update, in smaller parts")]
    same += [] if world.size == 1 or config.engine == "fsdp" else [("--engine", "fsdp", "weights in shards")]
    other = [f"--batch-size {config.batch_size // 2}"] if parts is None and config.batch_size > 1 else []
    other += [] if config.amp else ["--amp"]
    other += [] if config.opt == "swan" else ["--opt swan (no optimizer state)"]
    if folder is None:
        return "give the same command again with " + " or ".join(
            [*(f"{flag} {value} ({effect})" for flag, value, effect in same), *other]
        )
    advice = [f"go on with {effect}:\n{resuming(folder.root, flag, value)}" for flag, value, effect in same]
    if other:
        anew = beginning_anew(folder.root, _last_good(folder)[0])
        advice.append(f"begin a new run there, with {' or '.join(other)} added to\n{anew}")
    return "\nor ".join(advice)


def _last_good(folder: RunFolder) -> tuple[Path | None, str]:
    """The latest checkpoint of the run, whose weights are finite as all that are saved, and what it is."""
    saved = [path for path in (folder.last, *folder.saved()) if path.is_dir()]
    if not saved:
        return None, "no checkpoint was saved yet"
    steps = {path: read_course(path)[0] for path in saved}
    latest = max(reversed(saved), key=lambda path: steps[path].step)
    course = steps[latest]
    if course.batch:
        return latest, f"{latest} is the last good checkpoint"
    return folder.last, f"{folder.last} holds epoch {course.epoch}, the last good one"
