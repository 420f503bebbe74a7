"""Learning rates tensor by tensor, as the growth report gives them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.errors import PlanError
from growtool.finetune.update.growth_report import read_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

_RULES = {"SGD": "sgd"} | dict.fromkeys(("Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "AdamWLegacy"), "adam")
"""The report's key of the factors for an optimizer, by the name of its class."""


def read_factors(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the factors of learning rates, by parameter, from the growth report in `folder`.

    Raises:
        PlanError: there is no report, or growth knows no factors for this kind of optimizer.
        CheckpointError: the file is not a growth report.
    """
    algorithm = type(optimizer).__name__
    if algorithm not in _RULES:
        raise PlanError(
            f"--lr-factors: found the optimizer {algorithm}, expected one of {', '.join(_RULES)}, whose updates are "
            "known to grow so; use --opt adamw or sgd, or drop the option"
        )

    def read(tensors: Mapping[str, Any]) -> dict[str, float]:
        rule = _RULES[algorithm]
        return {name: float(entry["lr_factors"][rule]) for name, entry in tensors.items() if "lr_factors" in entry}

    return read_tensors(folder, "--lr-factors", without="drop the option", read=read)


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
