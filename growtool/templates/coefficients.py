"""Coefficients of new blocks over the templates of a bank (Pham et al., WACV 2024, arXiv 2311.04251, section 3.2).

Axes: T templates; B new blocks; m vectors of coefficients in use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.plan.width import Coefficients

_RANK = 1e-9  # of the largest singular value; smaller ones count as zero


def new_vectors(choice: Coefficients, beside_BT: Tensor, in_use_mT: Tensor, generator: torch.Generator) -> Tensor:
    """Return a vector of coefficients for each new block.

    `copy` repeats the vector of the block beside the new one, `zero` gives zeros, `random` draws unit vectors.

    `orthogonal` draws unit vectors that are orthogonal to all vectors in use. The new ones are also orthogonal to each
    other, in lots of as many as the null space of the vectors in use has dimensions. If these span all T dimensions,
    each new vector is orthogonal to the one beside it alone; with a single template it is zero.

    Args:
        choice: how the vectors are made.
        beside_BT: for each new block, the vector of the block beside it.
        in_use_mT: the vectors that the layer has.
        generator: source of random numbers.

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
    free = templates - rank(in_use)  # dimensions that the vectors in use leave
    if free:
        lots = torch.arange(blocks).split(free)
        return torch.cat([_drawn_off(in_use, len(lot), generator) for lot in lots])
    return torch.cat([_drawn_off(vector[None], 1, generator) for vector in beside])


def rank(vectors_mT: Tensor) -> int:
    """Return the number of dimensions that the vectors span."""
    singular = torch.linalg.svdvals(vectors_mT.double())
    return int((singular > _RANK * singular.max()).sum()) if singular.numel() and singular.max() > 0 else 0


def null_space(vectors_mT: Tensor) -> Tensor:
    """Return an orthonormal basis of all vectors that are orthogonal to the given ones, float64 [T - rank, T]."""
    basis: Tensor = torch.linalg.svd(vectors_mT.double(), full_matrices=True)[2]
    return basis[rank(vectors_mT) :]


def _drawn_off(vectors_mT: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` random orthonormal vectors that are orthogonal to the given ones, [count, T].

    Zeros if the given vectors leave no dimension. The largest entry of each vector is positive.
    """
    templates, dimensions = vectors_mT.shape[1], rank(vectors_mT)
    # Drawn in the whole space and projected: what a linear algebra library takes for a basis of the null space differs
    # from machine to machine, and random numbers along it would, too.
    drawn_Tn = torch.randn(templates, count, generator=generator, dtype=torch.float64)
    if dimensions == templates:
        return torch.zeros_like(drawn_Tn.T)
    touched = (vectors_mT != 0).any(0)
    # Vectors such as one-hot ones span all coordinates that they touch: the other coordinates are the exact null space.
    fill_touched = int(touched.sum()) == dimensions
    if fill_touched:
        drawn_Tn[touched] = 0.0
    else:
        span = torch.linalg.svd(vectors_mT, full_matrices=False)[2][:dimensions]
        for _ in range(2):  # the second pass removes what rounding left
            drawn_Tn -= span.T @ (span @ drawn_Tn)
    q_nT: Tensor = torch.linalg.qr(drawn_Tn).Q.T
    if fill_touched:
        q_nT[:, touched] = 0.0
    largest = q_nT.gather(1, q_nT.abs().argmax(1, keepdim=True))
    return q_nT * largest.sign()  # Q is unique up to these signs
