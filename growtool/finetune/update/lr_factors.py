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


def read_factors(folder: Path, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Parameter -> the factor for its learning rate, from the growth report in `folder`.

    Raises:
        PlanError: there is no report, or no rule for such an optimizer.
        CheckpointError: it is not a growth report.
    """
    algorithm = type(optimizer).__name__
    if algorithm not in _RULES:
        raise PlanError(
            f"--lr-factors: found the optimizer {algorithm}, expected one of {', '.join(_RULES)}, whose updates are "
            "known to grow so; use --opt adamw or sgd, or drop the option"
        )

    def factors(tensors: Mapping[str, Any]) -> dict[str, float]:
        found = {name: entry["lr_factors"] for name, entry in tensors.items() if "lr_factors" in entry}
        return {name: float(factors[_RULES[algorithm]]) for name, factors in found.items()}

    return read_tensors(folder, "--lr-factors", without="drop the option", read=factors)


def scale_rates(
    optimizer: torch.optim.Optimizer, model: nn.Module, factors: Mapping[str, float], *, scheduled: bool
) -> None:
    """Split the parameter groups by factor; timm's schedules multiply a group's rate by its `lr_scale`.

    Args:
        optimizer: before its schedule is made.
        model: whose parameters it holds.
        factors: by parameter; 1 for those that are absent.
        scheduled: whether a schedule will set the rates; without one they are set here.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        parts: dict[float, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            parts[factors.get(names[id(parameter)], 1.0)].append(parameter)
        for factor, parameters in sorted(parts.items()):
            changed = {"lr_scale": group.get("lr_scale", 1.0) * factor}
            changed |= {} if scheduled else {"lr": group["lr"] * factor}
            groups.append({**group, "params": parameters, **(changed if factor != 1.0 else {})})
    optimizer.param_groups[:] = groups
