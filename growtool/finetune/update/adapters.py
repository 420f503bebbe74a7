"""Low-rank adapters: W = W0 + s B A, of which only B and A train (LoRA, arXiv 2106.09685).

They start by LoRA-GA (arXiv 2407.05000, algorithm 1): A takes the leading right singular vectors of the gradient of W0,
B the next left ones, and W0 gives up what they add, so that the model computes what it did. The first step then follows
the full gradient as closely as this rank can. The scale is alpha / sqrt(rank) (arXiv 2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.parallel.distributed import World
from growtool.finetune.update.trainable import Selection

_GAMMA = 16.0  # the paper's stable scale: adapters begin at (out features)^(1/4) / sqrt(gamma)


class LowRank(nn.Module):
    """The parametrisation W0 -> W0 + s B A; W0 [O, I] or [O, I, height, width], B [O, R], A [R, I * height * width]."""

    def __init__(self, up_OR: Tensor, down_RI: Tensor, scale: float) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up_OR), nn.Parameter(down_RI)
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """The weight to compute with, in its own type whatever autocast says: the one that merging writes."""
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * self.up @ self.down).view_as(weight)


def targets(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The linear layers and convolutions that get adapters, but for depthwise ones, whose matrices have no low rank.

    Raises:
        PlanError: the pattern matches none.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if dense and fnmatchcase(name, pattern):
            found[name] = module
    if not found:
        raise PlanError(
            f"--set lora_targets={pattern}: matches no linear layer and no convolution; see `growtool inspect`"
        )
    return found


def add_adapters(
    model: nn.Module,
    config: RunConfig,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    world: World,
) -> Selection:
    """Give `model` adapters, set up by the mean gradient over `batches`.

    Args:
        model: changed in place; it computes what it did, up to rounding.
        config: rank, alpha and targets.
        batches: images [B, C, H, W] and targets.
        loss: of (logits, targets).
        world: the processes, whose batches count alike.

    Returns:
        What trains: the adapters' B and A, and nothing else, neither norms nor the classifier's bias.
    """
    layers = targets(model, config.lora_targets)
    for name, gradient in _gradients(model, layers, batches, loss, world).items():
        layer = layers[name]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        matrix = gradient.flatten(1)
        rank = min(config.lora_rank, max(1, min(matrix.shape) // 2))
        scale = config.lora_alpha / math.sqrt(rank)
        up, down = initial_factors(matrix, rank)
        with torch.no_grad():
            weight.sub_((scale * up @ down).view_as(weight))
        parametrize.register_parametrization(layer, "weight", LowRank(up, down, scale))
    return Selection(frozenset(n for n, _ in model.named_parameters() if n.endswith((".0.up", ".0.down"))))


def initial_factors(gradient_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """B [O, R] and A [R, I] for a gradient [O, I]: left singular vectors R to 2R, right ones 0 to R, scaled."""
    left_OR, right_IR = _singular_vectors(gradient_OI.double(), 2 * rank)
    size = gradient_OI.shape[0] ** 0.25 / math.sqrt(_GAMMA)
    factors = size * left_OR[:, -rank:], size * right_IR[:, :rank].T
    up, down = (factor.to(gradient_OI.dtype).contiguous() for factor in factors)  # as sharding wants them
    return up, down


def _singular_vectors(matrix_OI: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading left and right singular vectors as columns, `count` of each or as many as there are.

    Those of the shorter side are eigenvectors of a product of that size, a fraction of the work of a whole SVD; in
    float64 they are as good for a gradient in float32. QR completes the others where singular values are zero.
    """
    wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    matrix = matrix_OI if wide else matrix_OI.T
    short = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)[:, :count]
    long = torch.linalg.qr(matrix.T @ short).Q
    return (short, long) if wide else (long, short)


def _gradients(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    world: World,
) -> dict[str, Tensor]:
    """The mean gradient of each layer's weight, the model in evaluation mode."""
    weights: list[Tensor] = [layer.weight for layer in layers.values()]  # type: ignore[misc]
    sums = [torch.zeros_like(weight) for weight in weights]
    count = 0
    model.eval()
    for images, labels in batches:
        with torch.enable_grad():
            found = torch.autograd.grad(loss(model(images), labels), weights, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total += gradient
        count += 1
    return {name: world.total(total) / (max(count, 1) * world.size) for name, total in zip(layers, sums, strict=True)}
