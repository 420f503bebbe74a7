"""Creating the optimizer, one of timm's or SWAN, with rates tensor by tensor, and the schedule of its learning rate."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timm.optim import OptimInfo, OptimizerRegistry, create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from growtool.errors import PlanError
from growtool.finetune.config import STATELESS, RunConfig
from growtool.finetune.update.swan import Swan


def unknown_optimizer(name: str) -> str | None:
    """Return the problem with the name of an optimizer, or None if there is such an optimizer."""
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
    name = config.opt.lower().removeprefix("lookahead_")
    if not config.changes("momentum") or (name != STATELESS and get_optimizer_info(name).has_momentum):
        return None
    return f"--momentum: found {config.momentum:g}, but --opt {config.opt} has none; drop it, or see --set opt_kwargs"


def optimizer_class(name: str) -> str:
    """Return the class name of an optimizer, as `optimizer.json` has it; "" if there is no such optimizer."""
    if name.lower().startswith("lookahead_"):
        return "Lookahead"
    return "" if unknown_optimizer(name) else stepping_class(name)


def stepping_class(name: str) -> str:
    """Return the name of the class whose step an optimizer makes, within lookahead or without.

    The package that the class comes from need not be installed.
    """
    name = name.lower().removeprefix("lookahead_")
    if name == STATELESS:
        return "Swan"
    kind = get_optimizer_info(name).opt_class  # its dotted name if it is of another package
    return kind.rpartition(".")[2] if isinstance(kind, str) else str(kind.__name__)


def create_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer over the parameters of `model` that require gradients.

    Biases, norms and the parameters that the model itself excludes get no weight decay.

    Raises:
        PlanError: timm cannot create the optimizer, or it does not take `opt_kwargs`.
    """
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


def scale_rates(
    optimizer: torch.optim.Optimizer, model: nn.Module, factors: Mapping[str, float], *, scheduled: bool
) -> None:
    """Split the parameter groups by factor, and scale the rates of the new groups.

    timm's schedules multiply the rate of a group by its `lr_scale`, which layer decay may have set already.

    Args:
        optimizer: before its schedule is made.
        model: whose parameters it holds.
        factors: by parameter; 1 for those that are absent.
        scheduled: whether a schedule will set the rates; without one they are set here.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            by_factor[factors.get(names[id(parameter)], 1.0)].append(parameter)
        for factor, parameters in sorted(by_factor.items()):
            part = {**group, "params": parameters}
            if factor != 1.0:
                part["lr_scale"] = group.get("lr_scale", 1.0) * factor
                if not scheduled:
                    part["lr"] = group["lr"] * factor
            groups.append(part)
    optimizer.param_groups[:] = groups


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
    registry = OptimizerRegistry()  # not timm's global one, to which the name would be added for everybody
    registry.register(OptimInfo(STATELESS, Swan, has_eps=False))
    return registry.create_optimizer(model, **options)  # type: ignore[no-any-return]
