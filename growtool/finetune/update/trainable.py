"""The selection of tensors that train, whole or in part, and the protection of everything else from training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
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
        names: tensors that train as a whole.
        slices: tensors that train in part, with the ranges of their new positions; disjoint from `names`.
    """

    names: frozenset[str]
    slices: Mapping[str, Slices] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.names or name in self.slices

    def mask(self, name: str, shape: torch.Size) -> Tensor:
        """Return a boolean tensor of this shape, True where an element of the tensor `name` is selected."""
        if name in self.names:
            return torch.ones(shape, dtype=torch.bool)
        return new_mask(shape, self.slices.get(name, ()))

    def freeze_others(self, model: nn.Module) -> None:
        """Require gradients of the selected parameters, and of no others."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self)

    def train_mode(self, model: nn.Module) -> None:
        """Put the model in training mode, but BatchNorm without a selected tensor in eval mode.

        The running statistics of such a norm would drift otherwise, although none of its tensors trains.
        """
        model.train()
        for prefix, module in model.named_modules():
            if isinstance(module, _BatchNorm) and not self._selects_any_of(prefix, module):
                module.eval()

    def count(self, model: nn.Module) -> int:
        """Return the number of elements of parameters that train."""
        whole = sum(parameter.numel() for name, parameter in model.named_parameters() if name in self.names)
        masks = (self.mask(name, p.shape) for name, p in model.named_parameters() if name in self.slices)
        return whole + sum(int(mask.sum()) for mask in masks)

    def _selects_any_of(self, prefix: str, norm: nn.Module) -> bool:
        """Return whether a parameter of `norm` is selected, or a buffer of one without weight and bias."""
        tensors = [name for name, _ in norm.named_parameters(recurse=False)]
        tensors = tensors or [name for name, _ in norm.named_buffers(recurse=False)]
        return any(f"{prefix}.{name}" in self for name in tensors)

    def guard(self, model: nn.Module) -> FrozenSlices:
        """Return the guard of the old elements of tensors that train in part."""
        masks: dict[str, Tensor | None] = {
            name: self.mask(name, tensor.shape) for name, tensor in model.state_dict().items() if name in self.slices
        }
        # A norm that trains in part is in training mode and counts its batches. The counter is no part of any channel,
        # so it stays.
        for prefix, module in model.named_modules():
            if isinstance(module, _BatchNorm) and any(
                f"{prefix}.{name}" in masks for name in ("weight", "running_mean")
            ):
                buffers = (f"{prefix}.{name}" for name, _ in module.named_buffers(recurse=False))
                masks |= {name: None for name in buffers if name not in self}
        return FrozenSlices(model, masks)


class FrozenSlices:
    """A guard of the old elements of tensors that train in part.

    A gradient of 0 is not enough: the optimizer's weight decay and momentum would still move them.

    Args:
        model: the values that its tensors have now are kept.
        masks: by tensor, True where an element may change; None keeps the whole tensor.
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
        """Set the gradients of old elements to 0, so that they count neither in the norm to clip nor in moments."""
        for tensor, _, mask in self._parts:
            if mask is not None and tensor.grad is not None:
                tensor.grad.mul_(mask)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give old elements the values that they had at first."""
        for tensor, before, mask in self._parts:
            tensor.copy_(before if mask is None else torch.where(mask, tensor, before))


def new_mask(shape: torch.Size, slices: Slices) -> Tensor:
    """Return a boolean tensor of this shape, True where any position of an element lies in the ranges of `slices`."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for dim, ranges in enumerate(slices):
        for start, stop in ranges:
            mask.narrow(dim, start, stop - start).fill_(True)
    return mask


def select(train: str, checkpoint: Checkpoint, model: nn.Module) -> Selection:
    """Return the selection that `--train` asks for.

    Args:
        train: `all`; `new`, for the new tensors and positions of a grown checkpoint; `coefficients` or `templates`, of
            a checkpoint in template form; or patterns of names, separated by commas.
        model: the checkpoint as `load_model` builds it.

    Raises:
        PlanError: nothing is selected, or `new` of a checkpoint that was not grown, or coefficients or templates of a
            dense one.
        CheckpointError: the growth report is damaged or is not about this model.
    """
    if train == "all":
        return Selection(frozenset(model.state_dict()))
    if train in ("coefficients", "templates"):
        return Selection(names_of_kind(train, checkpoint))
    if train == "new":
        return new_selection(checkpoint, model, "--train new", without="use --train all")
    return _matching(train, checkpoint, model)


def new_selection(checkpoint: Checkpoint, model: nn.Module, option: str, *, without: str) -> Selection:
    """Return the new tensors and positions of a grown checkpoint, by the growth report beside it.

    Args:
        model: the checkpoint as `load_model` builds it.
        option: the option that needs the selection, for messages.
        without: the advice for a checkpoint that was not grown, for messages.

    Raises:
        PlanError: the checkpoint was not grown, or nothing of it is new.
        CheckpointError: the growth report is damaged or is not about this model.
    """
    dense = read_tensors(checkpoint.path.parent, option, without=without, read=marked_new)
    new = Selection(*as_stored(dense.names, dense.slices, checkpoint.form))
    if unknown := sorted((new.names | new.slices.keys()) - model.state_dict().keys()):
        raise CheckpointError(
            f"{checkpoint.path.parent / REPORT}: names the new tensor {unknown[0]}, expected only tensors of "
            f"{checkpoint.path.name}; restore the report that was written with it"
        )
    if not any(name in new for name, _ in model.named_parameters()):
        raise PlanError(f"{option}: {checkpoint.name} has no new tensor and no new part of one; {without}, or grow it")
    return new


def marked_new(tensors: Mapping[str, Any]) -> Selection:
    """Return what the entries of a growth report mark as new, tensors and slices, by the names of the dense model."""
    # An `implied` tensor, such as a projection that the source lacks, need not be in a new block, but is new itself.
    names = frozenset(name for name, entry in tensors.items() if entry["new"] or entry.get("how") == "implied")
    slices = {
        name: tuple(tuple((int(start), int(stop)) for start, stop in ranges) for ranges in entry["new_slices"])
        for name, entry in tensors.items()
        if name not in names and any(entry.get("new_slices", ()))
    }
    return Selection(names, slices)


def _matching(patterns: str, checkpoint: Checkpoint, model: nn.Module) -> Selection:
    """Return the tensors that any of the patterns matches; raise PlanError for a pattern without a parameter."""
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
