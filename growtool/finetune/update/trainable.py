"""What trains: whole tensors, or the parts of them that growth made; and what must not notice that training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from growtool.checkpoint import Checkpoint
from growtool.checkpoint.beside import REPORT
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.parallel.distributed import as_sharded
from growtool.finetune.update.growth_report import read_tensors
from growtool.finetune.update.template_form import Slices, as_stored, names_of_kind


@dataclass(frozen=True, slots=True)
class Selection:
    """The tensors of a model, parameters and buffers, that training may change.

    Attributes:
        names: those it may change as a whole.
        slices: those it may change in part, with the new positions.
    """

    names: frozenset[str]
    slices: Mapping[str, Slices] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.names or name in self.slices

    def mask(self, name: str, shape: torch.Size) -> Tensor:
        """bool of the shape of a tensor, True where it is selected."""
        if name in self.names:
            return torch.ones(shape, dtype=torch.bool)
        return new_mask(shape, self.slices.get(name, ()))

    def freeze_others(self, model: nn.Module) -> None:
        """Let gradients reach the selected parameters only."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self)

    def train_mode(self, model: nn.Module) -> None:
        """Training mode, except for BatchNorm without a selected tensor: its running statistics must not drift."""
        model.train()
        for prefix, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not self._holds(prefix, module):
                module.eval()

    def count(self, model: nn.Module) -> int:
        """Parameters that train, in elements."""
        whole = sum(parameter.numel() for name, parameter in model.named_parameters() if name in self.names)
        parts = (self.mask(name, p.shape) for name, p in model.named_parameters() if name in self.slices)
        return whole + sum(int(mask.sum()) for mask in parts)

    def _holds(self, prefix: str, module: nn.Module) -> bool:
        own = [name for name, _ in module.named_parameters(recurse=False)]
        own = own or [name for name, _ in module.named_buffers(recurse=False)]  # a norm without weight and bias
        return any(f"{prefix}.{name}" in self for name in own)

    def held(self, model: nn.Module) -> FrozenSlices:
        """Guards what is old in the tensors that train in part, and the counters of norms that hold such tensors."""
        masks: dict[str, Tensor | None] = {
            name: self.mask(name, tensor.shape) for name, tensor in model.state_dict().items() if name in self.slices
        }
        for prefix, module in model.named_modules():
            if isinstance(module, _BatchNorm) and any(
                f"{prefix}.{name}" in masks for name in ("weight", "running_mean")
            ):
                buffers = (f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False))
                masks |= {name: None for name in buffers if name not in self}
        return FrozenSlices(model, masks)


class FrozenSlices:
    """The old elements of tensors that train in part; an optimizer's decay and momentum would move them otherwise.

    Args:
        model: its tensors as they stand are what is kept.
        masks: by name, True where an element may change; None keeps the whole tensor.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor | None]) -> None:
        tensors = model.state_dict(keep_vars=True)
        self._parts = [
            (
                tensors[name],
                tensors[name].detach().clone(),
                None if mask is None else as_sharded(mask.to(tensors[name].device), tensors[name]),
            )
            for name, mask in masks.items()
        ]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Gradients of old elements become 0, so that they count neither in a norm nor in a moment."""
        for tensor, _, mask in self._parts:
            if mask is not None and tensor.grad is not None:
                tensor.grad.mul_(mask)

    @torch.no_grad()
    def put_back(self) -> None:
        """Old elements become what they were."""
        for tensor, before, mask in self._parts:
            tensor.copy_(before if mask is None else torch.where(mask, tensor, before))


def new_mask(shape: torch.Size, slices: Slices) -> Tensor:
    """bool of this shape, True where an element is new."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for dim, ranges in enumerate(slices):
        for start, stop in ranges:
            mask.narrow(dim, start, stop - start).fill_(True)
    return mask


def select(train: str, checkpoint: Checkpoint, model: nn.Module) -> Selection:
    """The tensors that `--train` names.

    These are `all`; `new`, what growth made; `coefficients` or `templates` of a checkpoint in template form; or those
    whose names a pattern matches.

    Raises:
        PlanError: nothing is selected, or `new` of a checkpoint that was not grown.
        CheckpointError: the growth report is damaged or is not about this model.
    """
    every = frozenset(model.state_dict())
    if train == "all":
        return Selection(every)
    if train in ("coefficients", "templates"):
        return Selection(names_of_kind(train, checkpoint))
    if train == "new":
        return new_in(checkpoint, model, "--train new", without="use --train all")
    return _matching(train, checkpoint, model)


def new_in(checkpoint: Checkpoint, model: nn.Module, option: str, *, without: str) -> Selection:
    """What growth made of a checkpoint, by the report beside it, as the model stores it.

    Args:
        checkpoint: that was grown.
        model: of it.
        option: that asks for it.
        without: what to do where nothing was grown.

    Raises:
        PlanError: it was not grown, or nothing of it is new.
        CheckpointError: the growth report is damaged or is not about this model.
    """
    every = frozenset(model.state_dict())
    found = new_tensors(checkpoint.path.parent, option, without=without)
    new = Selection(*as_stored(found.names, found.slices, checkpoint.form))
    if unknown := sorted((new.names | new.slices.keys()) - every):
        raise CheckpointError(
            f"{checkpoint.path.parent / REPORT}: names the new tensor {unknown[0]}, expected only tensors of "
            f"{checkpoint.path.name}; restore the report that was written with it"
        )
    if not any(name in new for name, _ in model.named_parameters()):
        raise PlanError(f"{option}: {checkpoint.name} has no new tensor and no new part of one; {without}, or grow it")
    return new


def new_tensors(folder: Path, option: str = "--train new", *, without: str = "use --train all") -> Selection:
    """What the growth report in `folder` marks as new; `option` asks for it, see `new_in`.

    Raises:
        PlanError: there is no report.
        CheckpointError: it is not a growth report.
    """
    return read_tensors(folder, option, without=without, read=_new)


def _new(tensors: Mapping[str, Any]) -> Selection:
    names = frozenset(name for name, entry in tensors.items() if entry["new"] or entry.get("how") == "implied")
    slices = {
        name: tuple(tuple((int(start), int(stop)) for start, stop in ranges) for ranges in entry["new_slices"])
        for name, entry in tensors.items()
        if name not in names and any(entry.get("new_slices", ()))
    }
    return Selection(names, slices)


def _matching(patterns: str, checkpoint: Checkpoint, model: nn.Module) -> Selection:
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    names = [name for name, _ in model.named_parameters()]
    problems = [
        f"--train {pattern}: matches no parameter of {checkpoint.name} ({names[0]}, ..., {names[-1]}), expected all, "
        "new or patterns such as layer4.*,fc.*; see `growtool inspect`"
        for pattern in wanted
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if problems:
        raise PlanError(problems)
    return Selection(frozenset(n for n in model.state_dict() if any(fnmatchcase(n, pattern) for pattern in wanted)))
