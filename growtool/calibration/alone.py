"""BatchNorm that is given a single value of each channel, from which no variance comes."""

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
    """Raise where a BatchNorm of `model` that takes the statistics of its batch sees one value of each channel.

    Args:
        model: no weight of it is read; it runs on the meta device.
        images: of a batch.
        remedy: what to do, for the message.
        among: names of the norms that take them; None for all.

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
    """Names of the norms that see one value of each channel, in evaluation, where they do not complain."""
    found: dict[str, None] = {}

    def note(name: str, given: tuple[Any, ...]) -> None:
        x: Tensor = given[0]
        if x.numel() == x.shape[1]:
            found[name] = None

    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda _, given, name=name: note(name, given))
    with torch.no_grad(), suppress(Exception):  # a model that does not run on meta is found out where it trains
        model(torch.zeros((images, *ImageFormat.of(model).input_size), device="meta"))
    return list(found)


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without values, in evaluation mode."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = torch.nn.Parameter(empty, False) if isinstance(tensor, torch.nn.Parameter) else empty
    return copy.deepcopy(model, memo).eval()
