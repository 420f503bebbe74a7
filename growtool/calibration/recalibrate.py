"""Running statistics of BatchNorm, estimated anew.

Growth that is not exact, like any other change of a layer's input, leaves the running means and variances of the norms
behind it wrong, and with them all outputs in evaluation mode. A pass over a few hundred images sets that right.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from growtool.errors import CheckpointError


def tracking_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the running means and variances of the BatchNorm layers, by name."""
    return {
        f"{name}.{statistic}": getattr(norm, statistic)
        for name, norm in tracking_norms(model).items()
        for statistic in ("running_mean", "running_var")
    }


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics by the plain average over `batches` of each batch's statistics.

    Only running means, variances and their counters change. Dropout and stochastic depth are off: all modules but the
    norms are in evaluation mode meanwhile. At the end every module is in the mode it was in before.

    Args:
        model: on any device.
        batches: images [N, C, H, W] on that device, with at least two values per channel for each norm.

    Returns:
        The number of norms that were recalibrated; without any, no batch is read.

    Raises:
        CheckpointError: the input of a norm is not finite, or too large for the type of its variance.
    """
    norms = tracking_norms(model)
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms.values()}
    model.eval()
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # torch: the average over all batches since the reset
            norm.train()
        for images in batches:
            model(images)
    finally:
        for module, training in modes.items():
            module.training = training
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    for name, values in running_statistics(model).items():
        if not bool(torch.isfinite(values).all()):
            raise CheckpointError(
                f"{name}: estimated from the images, found a value that is not finite, expected finite numbers; the "
                "weights in front of it are damaged or far too large, use a checkpoint that is sound"
            )
    return len(norms)
