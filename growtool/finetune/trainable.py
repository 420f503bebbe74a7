"""Which parameters train, and which modules must not notice that training goes on around them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from growtool.checkpoint.folder import REPORT
from growtool.errors import CheckpointError, PlanError

if TYPE_CHECKING:
    from growtool.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Selection:
    """The tensors of a model that training may change; `names` holds parameters and buffers."""

    names: frozenset[str]

    def freeze_others(self, model: nn.Module) -> None:
        """Let gradients reach the selected parameters only."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.names)

    def train_mode(self, model: nn.Module) -> None:
        """Training mode, except for BatchNorm without a selected tensor: its running statistics must not drift."""
        model.train()
        for prefix, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not self._holds(prefix, module):
                module.eval()

    def count(self, model: nn.Module) -> int:
        """Parameters that train, in elements."""
        return sum(parameter.numel() for name, parameter in model.named_parameters() if name in self.names)

    def _holds(self, prefix: str, module: nn.Module) -> bool:
        own = [name for name, _ in module.named_parameters(recurse=False)]
        own = own or [name for name, _ in module.named_buffers(recurse=False)]  # a norm without weight and bias
        return any(f"{prefix}.{name}" in self.names for name in own)


def select(train: str, checkpoint: Checkpoint, model: nn.Module) -> Selection:
    """The tensors that `--train` names: `all`, or `new`, those of blocks that growth added.

    Raises:
        PlanError: `new` of a checkpoint that was not grown, or that growth gave no new block.
        CheckpointError: the growth report is damaged or is not about this model.
    """
    every = frozenset(model.state_dict())
    if train == "all":
        return Selection(every)
    new = new_tensors(checkpoint.path.parent)
    if unknown := sorted(new - every):
        raise CheckpointError(
            f"{checkpoint.path.parent / REPORT}: names the new tensor {unknown[0]}, expected only tensors of "
            f"{checkpoint.path.name}; restore the report that was written with it"
        )
    if not new & {name for name, _ in model.named_parameters()}:
        raise PlanError(
            f"--train new: {checkpoint.name} has no new tensor: growth added no block to it (widening changes tensors, "
            "it adds none); use --train all, or grow its depth"
        )
    return Selection(new)


def new_tensors(folder: Path) -> frozenset[str]:
    """Names that the growth report in `folder` marks as new.

    Raises:
        PlanError: there is no report.
        CheckpointError: it is not a growth report.
    """
    path = folder / REPORT
    if not path.is_file():
        raise PlanError(
            f"--train new: {path}: not found, expected the report that `growtool grow` writes beside the weights; "
            "use --train all, or name the folder of a grown checkpoint"
        )
    try:
        tensors = json.loads(path.read_text(encoding="utf-8"))["tensors"]
        return frozenset(name for name, entry in tensors.items() if entry["new"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a growth report ({type(error).__name__}: {error}), expected `tensors` with `new` for each; "
            "grow the checkpoint again"
        ) from error
