"""SWAN, SGD with whitening and normalisation (arXiv 2412.13148): Adam's effect without Adam's memory.

The gradient G [m, n] of a matrix is standardised along its rows (GradNorm) and then whitened (GradWhitening):

    G~ = (G - mean) / std,        dW = (G~ G~^T)^(-1/2) G~,        dW <- dW |G~| / |dW|

The optimizer keeps no state between updates. The paper applies this to matrices and leaves other parameters to Adam;
here the gradient of a bias or norm is divided by its root mean square, which needs no state either.

Axes: O rows and I columns of a matrix; of a convolution: outputs, and inputs * height * width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from growtool.finetune.parallel.distributed import as_sharded, whole

_ITERATIONS = 12  # of Newton and Schulz
_EPS = 1e-8  # added to norms and standard deviations before they divide


class Swan(Optimizer):
    """The SWAN optimizer, with decoupled weight decay.

    Args:
        params: parameters or groups of them.
        lr: size of an update: its root mean square over the weights, as for Adam.
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
        """Update every parameter that has a gradient; return the loss of `closure`."""
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
                # Whitening mixes all rows of a matrix, so it needs the whole gradient, not the shard of this process.
                update = direction(whole(parameter.grad), group["iterations"])
                parameter.sub_(as_sharded(group["lr"] * update, parameter))
        return loss


def direction(gradient: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Return what an update of rate 1 subtracts from a parameter, given its gradient of any shape."""
    if gradient.ndim < 2 or min(gradient.shape[0], gradient[0].numel()) < 2:  # no matrix, or one of a row or column
        return gradient / (gradient.square().mean().sqrt() + _EPS)
    normed = grad_norm(gradient.flatten(1).float())
    whitened = grad_whitening(normed, iterations)
    rescaled = whitened * (normed.norm() / (whitened.norm() + _EPS))
    update: Tensor = rescaled.view_as(gradient).to(gradient.dtype)
    return update


def grad_norm(gradient_OI: Tensor) -> Tensor:
    """Return the gradient [O, I] with each row scaled to mean 0 and variance 1; rows without variance become 0."""
    centred_OI = gradient_OI - gradient_OI.mean(dim=1, keepdim=True)
    return centred_OI / (centred_OI.square().mean(dim=1, keepdim=True).sqrt() + _EPS)


def grad_whitening(gradient_OI: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """Return (G G^T)^(-1/2) G for a gradient G [O, I]; directions in which it is 0 stay 0."""
    if gradient_OI.shape[0] > gradient_OI.shape[1]:
        # With G = U S V^T both (G G^T)^(-1/2) G and G (G^T G)^(-1/2) are U V^T: take the smaller Gram matrix.
        return grad_whitening(gradient_OI.T, iterations).T
    gram_OO = gradient_OI @ gradient_OI.T
    scale = gram_OO.norm() + _EPS  # leaves eigenvalues of 0 to 1, for which the iteration converges
    identity = torch.eye(len(gram_OO), dtype=gram_OO.dtype, device=gram_OO.device)
    # Newton and Schulz's coupled iteration: of A = gram / scale, `root` tends to A^(1/2) and `inverse` to A^(-1/2).
    root, inverse = gram_OO / scale, identity
    for _ in range(iterations):
        correction = (3 * identity - inverse @ root) / 2
        root, inverse = root @ correction, correction @ inverse
    whitened_OI: Tensor = inverse @ gradient_OI / scale.sqrt()
    return whitened_OI
