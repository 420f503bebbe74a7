"""What is wrong with a run that needs no checkpoint and no image to be seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.data.sources import require_source
from growtool.finetune.parallel.device import resolve_device
from growtool.finetune.parallel.distributed import World
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.journal import require_installed
from growtool.finetune.update.optimizer import unknown_optimizer, unused_momentum


def require_possible(config: RunConfig, folder: RunFolder, world: World) -> torch.device:
    """Look at every option that needs no checkpoint and no image, and raise once for all of them.

    Returns:
        The device to run on.

    Raises:
        PlanError: one problem for each option that is wrong.
    """
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
    checks: list[Callable[[], object]] = [
        partial(require_source, config, training=True),
        partial(require_source, config, training=False),
        partial(require_installed, config.log),
    ]
    if world.is_main and config.resume is None:
        checks.insert(0, partial(folder.require_free, config.checkpoint, force=config.force))
    try:
        device = resolve_device(config.device, world.local_rank if world.size > 1 else None)
    except GrowtoolError as error:
        problems.extend(error.problems)
    if config.sync_bn and device.type != "cuda":
        problems.append("--sync-bn: torch synchronises BatchNorm on CUDA devices only; drop it")
    for check in checks:
        try:
            check()
        except GrowtoolError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise PlanError(problems)
    return device


def _unknown_backend(config: RunConfig) -> str | None:
    if config.torchcompile is None or config.torchcompile in torch.compiler.list_backends(exclude_tags=()):
        return None
    return f"--torchcompile: found {config.torchcompile!r}, expected a backend of torch, usually inductor"
