"""New coefficient vectors for new blocks (Pham et al., WACV 2024, arXiv 2311.04251, section 3.2).

Axes: T templates; B new blocks; m vectors in use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.plan.width import Coefficients

_RANK = 1e-9  # singular values below this part of the largest count as zero


def new_vectors(choice: Coefficients, beside_BT: Tensor, in_use_mT: Tensor, generator: torch.Generator) -> Tensor:
    """One vector for each new block.

    `orthogonal` vectors are unit vectors in the null space of the vectors in use, orthogonal to each other for as long
    as there is room and drawn anew from there on. Where the vectors in use leave no room, each is orthogonal to the
    vector beside it alone; where there is a single template it is zero. `copy` repeats the vector beside the block,
    `random` draws a direction.

    Args:
        choice: how.
        beside_BT: for each new block, the vector of the block it stands beside.
        in_use_mT: the vectors the layer has.
        generator: of random numbers.

    Returns:
        float64 [B, T].
    """
    blocks, templates = beside_BT.shape
    beside, in_use = beside_BT.double(), in_use_mT.double()
    if choice == "copy":
        return beside.clone()
    if choice == "random":
        drawn = torch.randn(blocks, templates, generator=generator, dtype=torch.float64)
        lengths: Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        return drawn / lengths
    if choice == "zero" or blocks == 0:
        return torch.zeros_like(beside)
    room = templates - rank(in_use)
    if room:
        parts = torch.arange(blocks).split(room)
        return torch.cat([_drawn_off(in_use, len(part), generator) for part in parts])
    return torch.cat([_drawn_off(vector[None], 1, generator) for vector in beside])


def rank(vectors_mT: Tensor) -> int:
    """Dimensions the vectors span."""
    sizes = torch.linalg.svdvals(vectors_mT.double())
    return int((sizes > _RANK * sizes.max()).sum()) if sizes.numel() and sizes.max() > 0 else 0


def null_space(vectors_mT: Tensor) -> Tensor:
    """An orthonormal basis of what is orthogonal to the vectors, float64 [T - rank, T]."""
    basis: Tensor = torch.linalg.svd(vectors_mT.double(), full_matrices=True)[2]
    return basis[rank(vectors_mT) :]


def _drawn_off(vectors_mT: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` random orthonormal vectors orthogonal to the given ones, each with its largest entry positive.

    They are drawn in the whole space and projected, so that they do not depend on the basis a linear algebra library
    happens to choose for the null space. Zero where there is none.
    """
    templates, dimensions = vectors_mT.shape[1], rank(vectors_mT)
    drawn = torch.randn(templates, count, generator=generator, dtype=torch.float64)
    if dimensions == templates:
        return torch.zeros_like(drawn.T)
    touched = (vectors_mT != 0).any(0)
    axes = int(touched.sum()) == dimensions  # the vectors fill the axes they touch, so the others are the null space
    if axes:
        drawn[touched] = 0.0
    else:
        inside = torch.linalg.svd(vectors_mT, full_matrices=False)[2][:dimensions]
        for _ in range(2):  # the second pass removes what rounding left
            drawn -= inside.T @ (inside @ drawn)
    q: Tensor = torch.linalg.qr(drawn).Q.T
    if axes:
        q[:, touched] = 0.0
    largest = q.gather(1, q.abs().argmax(1, keepdim=True))
    return q * largest.sign()
