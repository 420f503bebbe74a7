"""The checks of a run that need no weight and no image, made before anything is loaded."""

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
    """Check all options and the kind of the checkpoint, and raise once for all problems.

    Args:
        source: opens the checkpoint; no weight is read.

    Returns:
        The device to run on.

    Raises:
        CheckpointError: the checkpoint cannot be used, and nothing else is wrong.
        PlanError: at least one option is wrong; a problem for each, and those of the checkpoint.
    """
    checks: list[Callable[[], object]] = [
        partial(_require_options, config, world),
        partial(_require_trainable, config, source),
        partial(require_source, config, training=True),
        partial(require_source, config, training=False),
        partial(require_installed, config.log),
    ]
    if world.is_main and config.resume is None:  # second, since problems are told in the order of the checks
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
    return resolve_device(config.device, world)


def _require_options(config: RunConfig, world: World) -> None:
    """Raise PlanError for all options that are wrong by themselves, or on this machine."""
    optimizer = unknown_optimizer(config.opt) or unused_momentum(config)
    problems = [*filter(None, (optimizer, _unknown_backend(config)))]
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
    kind = "cpu"
    try:
        kind = resolve_device(config.device, world).type
    except GrowtoolError as error:
        problems.extend(error.problems)
    if config.sync_bn and kind != "cuda":
        problems.append("--sync-bn: torch synchronises BatchNorm on CUDA devices only; drop it")
    if problems:
        raise PlanError(problems)


def _require_trainable(config: RunConfig, source: Callable[[], Checkpoint]) -> None:
    """Check that the checkpoint exists, takes images, and can be trained with these options."""
    checkpoint = source()
    require_images(checkpoint.spec, checkpoint.name)
    library_of(checkpoint.spec).require_known(checkpoint.spec.architecture, where=checkpoint.name)
    refuse_what_templates_cannot(config, checkpoint)


def _unknown_backend(config: RunConfig) -> str | None:
    if config.torchcompile is None or config.torchcompile in torch.compiler.list_backends(exclude_tags=()):
        return None
    return f"--torchcompile: found {config.torchcompile!r}, expected a backend of torch, usually inductor"
