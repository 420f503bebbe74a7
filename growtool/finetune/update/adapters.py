"""Low-rank adapters: W = W0 + s B A, of which only B and A train (LoRA, arXiv 2106.09685).

The initialisation is LoRA-GA's (arXiv 2407.05000, algorithm 1). Of the singular vectors of W0's gradient, A holds the
right ones 0 to R and B the left ones R to 2R. The product s B A is subtracted from W0, so that the model computes the
same function as before. The first step is then as close to that of full training as adapters of this rank can come. The
scale is s = alpha / sqrt(R) (arXiv 2312.03732).

Axes: O outputs of a layer, I inputs (of a convolution: inputs * height * width), R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from growtool.errors import PlanError, format_names
from growtool.finetune.config import RunConfig
from growtool.finetune.parallel.distributed import World
from growtool.finetune.update.trainable import Selection

_GAMMA = 16.0  # of the paper's stable scale: B and A begin at the size O^(1/4) / sqrt(gamma)


class LowRank(nn.Module):
    """The parametrisation W0 -> W0 + s B A, with W0 [O, I] or [O, inputs, height, width].

    Attributes:
        up: B [O, R].
        down: A [R, I].
        scale: s.
    """

    def __init__(self, up_OR: Tensor, down_RI: Tensor, scale: float) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(up_OR), nn.Parameter(down_RI)
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Return W0 + s B A in the type of W0, also under autocast: exactly the weight that merging will write."""
        # torch.autocast refuses the meta device.
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * self.up @ self.down).view_as(weight)


def targets(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Return the linear layers and ungrouped convolutions that `pattern` matches, by name.

    Grouped convolutions get no adapters: the matrices of depthwise ones have no low rank.

    Raises:
        PlanError: the pattern matches none, or one whose weight the model computes from others.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        dense = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if dense and fnmatchcase(name, pattern):
            layers[name] = module
    if not layers:
        raise PlanError(
            f"--set lora_targets={pattern}: matches no linear layer and no convolution; see `growtool inspect`"
        )
    computed = [name for name, layer in layers.items() if parametrize.is_parametrized(layer, "weight")]
    if computed:
        raise PlanError(
            f"--set lora_targets={pattern}: found {format_names(computed)}, whose weights the model computes from "
            "others (torch's parametrizations), expected layers with weights of their own; choose another pattern"
        )
    return layers


def add_adapters(
    model: nn.Module,
    config: RunConfig,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    world: World,
) -> Selection:
    """Add adapters to `model`, initialised from the mean gradient over `batches`.

    Args:
        model: changed in place; it computes the same function as before, up to rounding.
        config: rank, alpha and targets.
        batches: images [B, C, H, W] and targets.
        loss: of (logits, targets).
        world: the processes, whose batches count alike.

    Returns:
        The parameters that train: B and A of the adapters, and neither norms nor the classifier's bias.

    Raises:
        PlanError: `config.lora_targets` matches no layer, or one that takes no adapter.
    """
    layers = targets(model, config.lora_targets)
    for name, gradient in _gradients(model, layers, batches, loss, world).items():
        layer = layers[name]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        gradient_OI = gradient.flatten(1)
        # B and A take different left and right vectors, 2 R in all, and there are only as many as the shorter side.
        rank = min(config.lora_rank, max(1, min(gradient_OI.shape) // 2))
        scale = config.lora_alpha / math.sqrt(rank)
        up, down = initial_factors(gradient_OI, rank)
        with torch.no_grad():
            weight.sub_((scale * up @ down).view_as(weight))
        parametrize.register_parametrization(layer, "weight", LowRank(up, down, scale))
    # torch names the tensors of the first parametrisation `LAYER.parametrizations.weight.0.TENSOR`.
    return Selection(frozenset(n for n, _ in model.named_parameters() if n.endswith((".0.up", ".0.down"))))


def initial_factors(gradient_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return B [O, R] and A [R, I] for a gradient [O, I]: its left singular vectors R to 2R, its right ones 0 to R."""
    left_OR, right_IR = _singular_vectors(gradient_OI.double(), 2 * rank)
    size = gradient_OI.shape[0] ** 0.25 / math.sqrt(_GAMMA)
    # The last left vectors are R to 2R; in a matrix with a single row or column they are the only one.
    factors = size * left_OR[:, -rank:], size * right_IR[:, :rank].T
    up, down = (factor.to(gradient_OI.dtype).contiguous() for factor in factors)  # FSDP2 refuses other strides
    return up, down


def _singular_vectors(matrix_OI: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading left and right singular vectors as columns, `count` of each or as many as there are."""
    # With M = U S V^T, the columns of U are the eigenvectors of M M^T, and M^T U = V S. For U of the shorter side this
    # is a fraction of the work of an SVD; the squares cost no accuracy, as the gradient is float32 and this is float64.
    wide = matrix_OI.shape[0] <= matrix_OI.shape[1]
    matrix = matrix_OI if wide else matrix_OI.T
    short = torch.linalg.eigh(matrix @ matrix.T).eigenvectors.flip(1)[:, :count]  # eigenvalues come in ascending order
    long = torch.linalg.qr(matrix.T @ short).Q  # V but for signs, and orthonormal columns where S is zero
    return (short, long) if wide else (long, short)


def _gradients(
    model: nn.Module,
    layers: dict[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    world: World,
) -> dict[str, Tensor]:
    """Return the mean gradient of each layer's weight over the batches of all processes, the model in eval mode."""
    weights: list[Tensor] = [layer.weight for layer in layers.values()]  # type: ignore[misc]
    sums = [torch.zeros_like(weight) for weight in weights]
    count = 0
    model.eval()
    for images, labels in batches:
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(model(images), labels), weights, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient
        count += 1
    return {name: world.total(total) / (max(count, 1) * world.size) for name, total in zip(layers, sums, strict=True)}
