"""What is wrong with a run that needs no weight and no image to be seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from growtool.checkpoint import Checkpoint
from growtool.errors import CheckpointError, GrowtoolError, PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.data.sources import require_source
from growtool.finetune.parallel.device import resolve_device
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.journal import require_installed
from growtool.finetune.update.optimizer import unknown_optimizer, unused_momentum
from growtool.finetune.update.template_form import refuse_what_templates_cannot
from growtool.images.format import require_images
from growtool.library import library_of


def require_possible(
    config: RunConfig, folder: RunFolder, world: World, source: Callable[[], Checkpoint]
) -> torch.device:
    """Look at every option and at what the checkpoint is, and raise once for all that is wrong.

    Args:
        config: of the run.
        folder: for its output.
        world: the processes that share the work.
        source: opens the checkpoint; no weight of it is read.

    Returns:
        The device to run on.

    Raises:
        CheckpointError: the checkpoint cannot be used, and no more is wrong.
        PlanError: one problem for each option that is wrong, and those of the checkpoint.
    """
    checks: list[Callable[[], object]] = [
        partial(_require_options, config, world),
        partial(_require_trainable, config, source),
        partial(require_source, config, training=True),
        partial(require_source, config, training=False),
        partial(require_installed, config.log),
    ]
    if world.is_main and config.resume is None:
        checks.insert(1, partial(folder.require_free, config.checkpoint, force=config.force))
    errors = []
    for check in checks:
        try:
            check()
        except GrowtoolError as error:
            errors.append(error)
    if errors:
        kind = CheckpointError if all(isinstance(error, CheckpointError) for error in errors) else PlanError
        raise kind(list(dict.fromkeys(problem for error in errors for problem in error.problems)))
    return _device(config, world)


def _require_options(config: RunConfig, world: World) -> None:
    """Raise for every option that is wrong on its own, or here."""
    found = unknown_optimizer(config.opt) or unused_momentum(config), _unknown_backend(config)
    problems = [*filter(None, found)]
    if config.batch_size % (world.size * config.grad_accum_steps):
        problems.append(
            f"--batch-size: found {config.batch_size}, expected a multiple of {world.size} processes times "
            f"{config.grad_accum_steps} --grad-accum-steps, as they share the images of an update"
        )
    if world.size == 1:
        problems.extend(
            f"{flag}: found one process, expected several; start them with torchrun --nproc-per-node N -m growtool, or "
            "drop the option"
            for flag, given in (("--engine fsdp", config.engine == "fsdp"), ("--sync-bn", config.sync_bn))
            if given
        )
    device = torch.device("cpu")
    try:
        device = _device(config, world)
    except GrowtoolError as error:
        problems.extend(error.problems)
    if config.sync_bn and device.type != "cuda":
        problems.append("--sync-bn: torch synchronises BatchNorm on CUDA devices only; drop it")
    if problems:
        raise PlanError(problems)


def _device(config: RunConfig, world: World) -> torch.device:
    return resolve_device(config.device, world.local_rank if world.size > 1 else None)


def _require_trainable(config: RunConfig, source: Callable[[], Checkpoint]) -> None:
    """Raise unless the checkpoint is there, takes images, and has a place for what is asked for."""
    checkpoint = source()
    require_images(checkpoint.spec, checkpoint.name)
    library_of(checkpoint.spec).require_known(checkpoint.spec.architecture, where=checkpoint.name)
    refuse_what_templates_cannot(config, checkpoint)


def _unknown_backend(config: RunConfig) -> str | None:
    if config.torchcompile is None or config.torchcompile in torch.compiler.list_backends(exclude_tags=()):
        return None
    return f"--torchcompile: found {config.torchcompile!r}, expected a backend of torch, usually inductor"
