"""Fine-tuning from start to finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

from growtool.checkpoint import open_checkpoint
from growtool.finetune.advice import advising_on_memory
from growtool.finetune.config import RunConfig
from growtool.finetune.data.seeding import isolated_generators
from growtool.finetune.epoch_loop import EpochLoop, RunResult
from growtool.finetune.job import Job
from growtool.finetune.options.defaults import DEFAULTS, as_document, in_words
from growtool.finetune.options.merging import placed_options
from growtool.finetune.parallel.device import in_use
from growtool.finetune.parallel.distributed import World, joined
from growtool.finetune.possible import require_possible
from growtool.finetune.prepare import prepare
from growtool.finetune.state.bar import shown_bar
from growtool.finetune.state.folder import RunFolder, Saver
from growtool.finetune.state.journal import Journal, open_trackers
from growtool.finetune.state.lock import locked
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.records import Progress
from growtool.finetune.state.resume import find_checkpoint, require_same_run
from growtool.finetune.state.rewind import Best, find_best, mend, rewind
from growtool.finetune.state.snapshot import put_back, read_course
from growtool.finetune.stopping import stop_on_signals


def finetune(config: RunConfig, progress: Progress | None = None) -> RunResult:
    """Train a checkpoint further; `config.output` becomes the run's folder (see `RunFolder`).

    Under torchrun every process calls this and gets the same result; the first one writes.

    Args:
        config: the options.
        progress: observer of the run; by default a bar in an IPython session, and nobody elsewhere.

    Raises:
        PlanError: an option, the data or the output is at fault, the run to resume began with others, memory ran out,
            or training diverged. What was saved before is kept.
        CheckpointError: the checkpoint, or the state of the run to resume, is damaged or does not fit.
        Stopped: SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C asked the run to stop; its state is saved.
    """
    folder, world = RunFolder(config.output), World.from_environment()
    device = require_possible(config, folder, world, partial(open_checkpoint, config.checkpoint, counting=True))
    memory = partial(advising_on_memory, config, folder, device, world)
    with ExitStack() as stack:
        watcher = progress if world.is_main else Progress()
        if watcher is None:
            watcher = stack.enter_context(shown_bar())
        if world.is_main:
            _take_hold(config, folder, watcher, stack)
        stack.enter_context(in_use(device, tf32=config.tf32))
        stack.enter_context(joined(world, device))
        stack.enter_context(isolated_generators(device))
        request = stack.enter_context(stop_on_signals(patient=world.size > 1))
        with memory():
            job = prepare(config, device, world)
            settings = _resolved(job)
            course, best = _reached(job, folder, settings, watcher)
        world.wait()  # until all processes have read the folder, which the first is about to change
        journal = saver = None
        if world.is_main:
            journal, saver = _open_books(job, folder, settings, course, best, watcher, stack)
        if course is None and job.choices:
            watcher.chose(in_words(job.choices))
        for remark in job.remarks:
            watcher.noticed(remark)
        course = course or RunProgress()
        course.best = best.record
        with memory(lambda: job.trainer.step):
            return EpochLoop(job, course, folder, journal, saver, watcher, request).result()


def _take_hold(config: RunConfig, folder: RunFolder, watcher: Progress, stack: ExitStack) -> None:
    """Lock the folder until `stack` is closed, and repair what a crash has left there."""
    if not stack.enter_context(locked(folder.root)):
        watcher.noticed(f"{folder.root}: no locks here, so nothing keeps a second process from writing this run")
    if config.resume is None:
        # `require_possible` has checked this without the lock: another run may have used the folder since.
        folder.require_free(config.checkpoint, force=config.force)
    elif folder.config.is_file():
        mend(folder)


def _reached(
    job: Job, folder: RunFolder, settings: Mapping[str, Any], watcher: Progress
) -> tuple[RunProgress | None, Best]:
    """Load the state of a run to resume into the trainer; return its progress (None for a new run) and best epoch."""
    resumed = find_checkpoint(job.config, folder)
    if resumed is None:
        return None, Best()
    for remark in require_same_run(folder, settings):
        watcher.noticed(remark)
    best = find_best(folder, read_course(resumed)[0], job.trainer)  # first, since it may change the trainer's state
    return put_back(resumed, job.trainer), best


def _open_books(
    job: Job,
    folder: RunFolder,
    settings: Mapping[str, Any],
    course: RunProgress | None,
    best: Best,
    watcher: Progress,
    stack: ExitStack,
) -> tuple[Journal, Saver]:
    """Prepare the folder for the run, and open what writes into it until `stack` is closed."""
    saver = Saver(folder, job, settings)
    if course is None:
        folder.create(settings)
    else:
        for remark in _go_back(folder, course, best, saver):
            watcher.noticed(remark)
    trackers = open_trackers(job.config.log, folder.root, settings)
    journal = stack.enter_context(Journal(folder.root, trackers, course))
    stack.callback(saver.close)
    return journal, saver


def _go_back(folder: RunFolder, course: RunProgress, best: Best, saver: Saver) -> Iterator[str]:
    """Make the folder what it was after the last update of `course`; yield what the user should know of it."""
    if given_up := rewind(folder, course, best, saver):
        yield f"the run goes on after update {course.step}; what came later is given up: {', '.join(given_up)}"
    if course.best is not None and (best.record is None or best.record.step != course.best.step):
        since = "the epochs to come" if best.record is None else f"epoch {best.record.epoch} and those to come"
        yield f"the weights of epoch {course.best.epoch}, the best so far, are not kept; best/ is chosen from {since}"


def _resolved(job: Job) -> dict[str, Any]:
    """Return the content of `config.yaml`: all options, and under `resolved` what they came to in this run."""
    trainer, teacher = job.trainer, job.config.kd_teacher
    options = job.config.as_dict() | dict.fromkeys(job.choices)
    options = {key: value for key, value in options.items() if key not in ("force", "resume")}
    options = placed_options(options, Path.cwd())  # paths become absolute: a run is resumed from any folder
    return options | {
        "resolved": {
            "source_sha256": job.source.sha256(),
            "teacher_sha256": open_checkpoint(teacher).sha256() if teacher else None,
            "device": str(trainer.device),
            "processes": trainer.world.size,
            "epochs": job.epochs,
            "steps": job.steps,
            "steps_per_epoch": len(job.train),
            "warmup_steps": job.config.warmup(len(job.train)),
            "train_images": job.train.count,
            "classes": list(job.spec.label_names or ()),
            "trained_parameters": trainer.selection.count(trainer.model),
            "macs_per_image": job.macs,
            "carried_optimizer_states": job.carried,
            DEFAULTS: as_document(job.choices),
            "versions": {"growtool": version("growtool"), "timm": timm.__version__, "torch": str(torch.__version__)},
        }
    }
