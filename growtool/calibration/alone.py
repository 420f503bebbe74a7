"""A check for BatchNorm that is given a single value of each channel, which has no variance."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from growtool.errors import PlanError, format_names
from growtool.images import ImageFormat


def require_several_values(model: nn.Module, images: int, remedy: str, among: frozenset[str] | None = None) -> None:
    """Check that no BatchNorm that takes its batch's statistics sees a single value of each channel.

    Args:
        model: runs on the meta device; no weight of it is read.
        images: number of images in a batch.
        remedy: what to do about it, for the message.
        among: names of the norms that take their batch's statistics; None for all.

    Raises:
        PlanError: names the norms.
    """
    if images > 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return
    alone = [name for name in _alone(_on_meta(model), images) if among is None or name in among]
    if alone:
        raise PlanError(
            "found batches of one image, of which BatchNorm sees a single value for each channel "
            f"({format_names(alone, 3)}), expected two or more, as it needs their variance; {remedy}"
        )


def _alone(model: nn.Module, images: int) -> list[str]:
    """Return the names of the norms that see one value of each channel.

    The model is in evaluation mode: in training torch itself raises at the first such norm.
    """
    alone: dict[str, None] = {}

    def note(name: str, given: tuple[Any, ...]) -> None:
        x: Tensor = given[0]
        if x.numel() == x.shape[1]:
            alone[name] = None

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda _, given, name=name: note(name, given))
    with torch.no_grad(), suppress(Exception):  # a model that does not run on meta is found out where it trains
        model(torch.zeros((images, *ImageFormat.of(model).input_size), device="meta"))
    return list(alone)


def _on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of a model without values, in evaluation mode."""
    # `deepcopy` takes what is in the memo for the copy, so that no value is ever copied
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = torch.nn.Parameter(empty, False) if isinstance(tensor, torch.nn.Parameter) else empty
    return copy.deepcopy(model, memo).eval()
