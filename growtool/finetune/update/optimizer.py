"""Creating the optimizer, one of timm's or SWAN, and the schedule of its learning rate."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from growtool.errors import PlanError
from growtool.finetune.config import STATELESS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from growtool.finetune.config import RunConfig


def unknown_optimizer(name: str) -> str | None:
    """Return the problem with the name of an optimizer, or None if there is such an optimizer."""
    from timm.optim import list_optimizers

    known = [*list_optimizers(), STATELESS]
    # Lookahead is timm's, and wraps the optimizers of timm's registry alone, where SWAN is not.
    if name.lower().removeprefix("lookahead_") in known and name.lower() != f"lookahead_{STATELESS}":
        return None
    similar = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "see `timm.optim.list_optimizers()`"
    return f"--opt: found {name!r}, expected the name of an optimizer of timm, or {STATELESS}; {hint}"


def unused_momentum(config: RunConfig) -> str | None:
    """Return the problem with `--momentum` if it was set for an optimizer without momentum, else None.

    Args:
        config: of the run; the name of its optimizer is known to be right.
    """
    from timm.optim import get_optimizer_info

    name = config.opt.lower().removeprefix("lookahead_")
    if not config.changes("momentum") or (name != STATELESS and get_optimizer_info(name).has_momentum):
        return None
    return f"--momentum: found {config.momentum:g}, but --opt {config.opt} has none; drop it, or see --set opt_kwargs"


def optimizer_class(name: str) -> str:
    """Return the class name of an optimizer, as `optimizer.json` has it; "" if there is no such optimizer."""
    from timm.optim import get_optimizer_class

    if name.lower().startswith("lookahead_"):
        return "Lookahead"
    if name.lower() == STATELESS:
        return "Swan"
    return "" if unknown_optimizer(name) else str(get_optimizer_class(name, bind_defaults=False).__name__)


def create_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer over the parameters of `model` that require gradients.

    Biases, norms and the parameters that the model itself excludes get no weight decay.

    Raises:
        PlanError: timm cannot create the optimizer, or it does not take `opt_kwargs`.
    """
    from timm.optim import create_optimizer_v2

    create = _create_swan if config.opt.lower() == STATELESS else create_optimizer_v2
    try:
        return create(
            model,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
            **config.opt_kwargs,
        )
    except (AssertionError, AttributeError, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(
            f"--opt: timm cannot create {config.opt!r} here ({type(error).__name__}: {error}); "
            "correct --set opt_kwargs and --layer-decay, install what it needs, or choose another, e.g. adamw or sgd"
        ) from error


def create_schedule(
    config: RunConfig, optimizer: torch.optim.Optimizer, *, steps: int, per_epoch: int
) -> Callable[[int], None] | None:
    """Return a function that sets the learning rate of the next update, given how many updates the run has done.

    Args:
        config: of the run; the course of the rate may begin before the run and end after it.
        optimizer: gets the rate of its first update.
        steps: updates of the run.
        per_epoch: updates of an epoch.

    Returns:
        None if the rate is fixed.

    Raises:
        PlanError: timm cannot create such a schedule for so few updates.
    """
    from timm.scheduler import create_scheduler_v2

    course, warmup = config.course(steps), config.warmup(per_epoch)
    try:
        # An epoch of one update makes timm count in updates: the lengths here are no whole numbers of epochs.
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=course,
            warmup_epochs=warmup,
            decay_epochs=config.decay(per_epoch),
            decay_fn=config.lr_decay_fn,
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
    except (AssertionError, ValueError) as error:
        raise PlanError(
            f"--sched: timm cannot create {config.sched!r} for {course} updates, {warmup} of them warm-up ({error}); "
            "shorten the warm-up, train longer, or choose another"
        ) from error
    if scheduler is None:
        return None

    def set_rate(step: int) -> None:
        scheduler.step_update(config.sched_start + step)

    set_rate(0)
    return set_rate


def _create_swan(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Create SWAN through timm's registry class, for the same parameter groups and layer decay as other optimizers."""
    from timm.optim import OptimInfo, OptimizerRegistry

    from growtool.finetune.update.swan import Swan

    registry = OptimizerRegistry()  # not timm's global one, to which the name would be added for everybody
    registry.register(OptimInfo(STATELESS, Swan, has_eps=False))
    return registry.create_optimizer(model, **options)  # type: ignore[no-any-return]
