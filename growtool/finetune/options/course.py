"""The number of updates of a run, and checks that the parts of it that options set are no longer than the run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.images import Split


def length_of(config: RunConfig, train: Split, per_epoch: int, macs: int) -> int:
    """Return the number of updates of the run.

    Args:
        train: the images it trains on.
        per_epoch: updates of an epoch.
        macs: multiply-accumulates of training on one image.

    Raises:
        PlanError: there are fewer images than a batch, the budget is less than an update, or a part of the run
            (warm-up, decay, frozen epochs) is longer than the run.
    """
    if per_epoch == 0:
        raise PlanError(
            f"--batch-size: found {config.batch_size}, expected at most the {len(train)} images of {train.root}; "
            "lower it or add images"
        )
    steps = config.budget(per_epoch, macs * config.batch_size)
    if steps == 0:
        raise PlanError(
            f"--set macs={config.macs:g}: found less than one update, which takes {macs * config.batch_size:.3g} MACs; "
            "raise it or lower --batch-size"
        )
    epochs = math.ceil(steps / per_epoch)
    problems = [*_schedule_problems(config, steps, per_epoch), *_new_warmup_problems(config, steps, per_epoch)]
    if config.freeze_epochs >= epochs:
        problems.append(
            f"--freeze-epochs: found {config.freeze_epochs}, expected fewer than the {epochs} epochs of the run, after "
            "which nothing would be released; lower it, drop it or train longer"
        )
    seen = per_epoch * config.batch_size
    if config.recalibrate > seen:
        problems.append(
            f"--recalibrate: found {config.recalibrate}, expected at most the {seen} images of an epoch; lower it"
        )
    if problems:
        raise PlanError(problems)
    return steps


def _schedule_problems(config: RunConfig, steps: int, per_epoch: int) -> Iterator[str]:
    """Yield the problems with the lengths of the rate's course, its warm-up and its decay."""
    warmup, course = config.warmup(per_epoch), config.course(steps)
    if config.sched_start + steps > course:
        yield (
            f"--set sched_steps: found {course}, expected at least the {config.sched_start} updates before the run and "
            f"its own {steps}; raise it"
        )
    if warmup >= course:
        yield (
            f"--warmup-epochs, --warmup-steps: found a warm-up of {warmup} updates, expected fewer than the {course} "
            f"of the whole run ({per_epoch} an epoch); shorten it or train longer"
        )
    elif config.warmup_epochs and not warmup:
        yield (
            f"--warmup-epochs: found {config.warmup_epochs:g}, which is less than half an update of the {per_epoch} "
            "an epoch has; drop it or lengthen it"
        )
    elif (decay := config.decay(per_epoch) or 0) > course - warmup:
        yield (
            f"--decay-epochs, --set decay_steps: found a decay of {decay:g} updates, expected at most the "
            f"{course - warmup} that the warm-up leaves; shorten it or train longer"
        )


def _new_warmup_problems(config: RunConfig, steps: int, per_epoch: int) -> Iterator[str]:
    """Yield the problem of a warm-up of new positions that has no update, or more than the run."""
    updates = config.warmup_of_new(steps, per_epoch)
    if config.new_warmup is not None and not 0 < updates <= steps:
        yield (
            f"--new-warmup: found {config.new_warmup}, which is {updates} updates, expected 1 to the {steps} of the "
            f"run ({per_epoch} an epoch); correct it or drop it"
        )
