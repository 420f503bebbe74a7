"""The grown model in memory, and BatchNorm's running statistics for it, estimated from images before it is written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor, nn

from growtool.algebra.threads import single_threaded
from growtool.calibration import Calibration, open_images, recalibrate, running_statistics
from growtool.checkpoint import all_in_type
from growtool.growing.execute import WIDER, grown_tensors
from growtool.recipe import Recipe

Remark = Callable[[str], None]  # called with a sentence for the user


def in_memory(recipe: Recipe, ready: Mapping[str, Tensor] = MappingProxyType({})) -> nn.Module:
    """Return the grown model with its weights, in evaluation mode; in float64 if any tensor is, else in float32.

    Args:
        recipe: what to make.
        ready: tensors of the target that were made before, by name.
    """
    dense = replace(recipe, form=None)
    state = grown_tensors(dense, ready)
    model = copy.deepcopy(recipe.models[1])
    model.load_state_dict(state, strict=True, assign=True)
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return (model.double() if wide else model.float()).eval()


def opened_images(recipe: Recipe, model: nn.Module, told: Remark) -> Calibration:
    """Return the images of the plan, prepared for the grown model.

    Args:
        recipe: what to make; its plan has `data`.
        model: the grown model, whose settings prepare the images; no weight is read.
        told: called with a sentence on each thing that the user should know of the images.

    Raises:
        PlanError: the images cannot be used.
        CheckpointError: the class names in the source's config do not fit its logits.
    """
    data = recipe.plan.data
    assert data is not None, "a plan that sees images has data"
    source = recipe.source
    calibration = open_images(data, model, label_names=source.spec.label_names, checkpoint=source.name)
    for remark in calibration.images.split.remarks:
        told(remark)
    return calibration


def recalibrated(recipe: Recipe, ready: Mapping[str, Tensor], told: Remark) -> Mapping[str, Tensor]:
    """Return the running means and variances that the plan's images give the grown model, by the target's names.

    Args:
        recipe: what to make.
        ready: tensors of the target that were made before, by name.
        told: called with a sentence on each thing that the user should know of the images.

    Raises:
        PlanError: the images cannot be used, or a type cannot hold the statistics.
        CheckpointError: an image cannot be read.
    """
    model = in_memory(recipe, ready)
    images = opened_images(recipe, model, told)
    dtype = next(model.parameters()).dtype
    with single_threaded():
        recalibrate(model, (batch.to(dtype) for batch, _ in images.batches()))
    return all_in_type(running_statistics(model), recipe.infos, remedy=WIDER)
