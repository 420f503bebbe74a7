"""SWAN, SGD with whitening and normalisation (arXiv 2412.13148): Adam's effect without Adam's memory.

The gradient G [m, n] of a matrix is standardised along its rows (GradNorm) and then whitened (GradWhitening):

    G~ = (G - mean) / std,        dW = (G~ G~^T)^(-1/2) G~,        dW <- dW |G~| / |dW|

Nothing is remembered between updates. The paper applies this to matrices and leaves the rest to Adam; what is not a
matrix here (biases, norms) is divided by its root mean square, which keeps the optimizer stateless.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from growtool.finetune.parallel.distributed import as_sharded, whole

_ITERATIONS = 12
_EPS = 1e-8


class Swan(Optimizer):
    """Stateless; weight decay is decoupled.

    Args:
        params: parameters or groups of them; convolutions count as matrices [out, in * height * width].
        lr: size of an update: its root mean square per weight, as for Adam.
        weight_decay: share of each weight that an update of rate 1 takes away.
        iterations: of Newton and Schulz.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0, iterations: int = _ITERATIONS) -> None:
        if lr < 0 or weight_decay < 0 or iterations < 1:
            raise ValueError(f"found lr {lr}, weight_decay {weight_decay}, iterations {iterations}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter with a gradient."""
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        else:
            loss = None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = direction(whole(parameter.grad), group["iterations"])  # of the matrix, not of a shard
                parameter.sub_(as_sharded(group["lr"] * update, parameter))
        return loss


def direction(gradient: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """What an update of rate 1 subtracts, for a gradient of any shape."""
    if gradient.ndim < 2 or min(gradient.shape[0], gradient[0].numel()) < 2:
        return gradient / (gradient.square().mean().sqrt() + _EPS)
    normed = grad_norm(gradient.flatten(1).float())
    whitened = grad_whitening(normed, iterations)
    rescaled = whitened * (normed.norm() / (whitened.norm() + _EPS))
    update: Tensor = rescaled.view_as(gradient).to(gradient.dtype)
    return update


def grad_norm(gradient_OI: Tensor) -> Tensor:
    """Rows [O, I] with mean 0 and variance 1; a row without variance becomes 0."""
    centred = gradient_OI - gradient_OI.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + _EPS)


def grad_whitening(gradient_OI: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """(G G^T)^(-1/2) G, by Newton and Schulz's coupled iteration on the smaller of the two Gram matrices.

    Both give U V^T of the singular value decomposition of G; directions without gradient stay without.
    """
    if gradient_OI.shape[0] > gradient_OI.shape[1]:
        return grad_whitening(gradient_OI.T, iterations).T
    gram = gradient_OI @ gradient_OI.T
    scale = gram.norm() + _EPS
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    root, inverse = gram / scale, identity
    for _ in range(iterations):
        correction = (3 * identity - inverse @ root) / 2
        root, inverse = root @ correction, correction @ inverse
    whitened: Tensor = inverse @ gradient_OI / scale.sqrt()
    return whitened
