"""BatchNorm's running statistics for a grown model, estimated from images before it is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from growtool.calibration import open_images, recalibrate, tracking_norms
from growtool.checkpoint import file_order
from growtool.grow.execute import produce, single_threaded
from growtool.recipe import Recipe


def in_memory(recipe: Recipe, replaced: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The grown model with its weights, float32 (float64 where the source is), in evaluation mode.

    Args:
        recipe: what to make.
        replaced: tensors of the target that were made before, by name.
    """
    dense = replace(recipe, form=None)
    state = dict(zip(file_order(dense.infos), produce(dense, lambda nbytes: None, replaced), strict=True))
    model = copy.deepcopy(recipe.models[1])
    model.load_state_dict(state, strict=True, assign=True)
    wide = any(tensor.dtype == torch.float64 for tensor in state.values())
    return (model.double() if wide else model.float()).eval()


def recalibrated(recipe: Recipe, replaced: Mapping[str, Tensor] | None = None) -> Mapping[str, Tensor]:
    """The running means and variances that the plan's images give the grown model, by the target's names.

    Args:
        recipe: what to make.
        replaced: tensors of the target that were made before, by name.

    Raises:
        PlanError: the images cannot be used.
        CheckpointError: one of them cannot be read.
    """
    data = recipe.plan.data
    assert data is not None, "a plan that recalibrates has data"
    model = in_memory(recipe, replaced)
    images = open_images(data, model, label_names=recipe.source.spec.label_names, checkpoint=recipe.source.name)
    dtype = next(model.parameters()).dtype
    with single_threaded():
        recalibrate(model, (batch.to(dtype) for batch, _ in images.batches()))
    return {
        f"{name}.{statistic}": getattr(norm, statistic).to(recipe.infos[f"{name}.{statistic}"].torch_dtype)
        for name, norm in tracking_norms(model).items()
        for statistic in ("running_mean", "running_var")
    }
