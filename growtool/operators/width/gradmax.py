"""`gradmax`: new hidden units with the largest gradient (GradMax, arXiv 2201.05125, section 3).

In `y = W2 phi(W1 x)` a new unit with zero weights on one side leaves y alone. Let new units have zero rows V in W1 and
columns U in W2. The gradient on V is `phi'(0) U^T M` with `M = sum (dL/dy) x^T` over the images, and of all orthonormal
U the left singular vectors of M make it largest.

Where phi has no slope at zero (ReLU) such a unit would be dead, and where a BatchNorm divides zeros by their deviation
it would explode. There the columns are zero instead, and the rows are right singular vectors of M in pairs of opposite
sign, since `phi(z) - phi(-z) = z` for ReLU, GELU and SiLU.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, padded
from growtool.operators.base import Abilities, Layer, split_among_copies
from growtool.plan.width import Gradmax

ABILITIES = Abilities(blanks=("silent", "open"), always_blank=True, hidden_alone=True)
_NEGLIGIBLE = 1e-6  # of the largest singular value


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return the old units once, then blanks for the new ones."""
    return padded(size, new_size, copies=1)


def grow(spec: Gradmax, W: Tensor, layer: Layer) -> Tensor:
    """Return old values where units were and zeros beside them, where `with_directions` puts the new units later."""
    return split_among_copies(W, replace(layer, fill="zero" if layer.fill == "noise" else layer.fill), None)


def directions(M: Tensor, count: int, generator: torch.Generator, *, columns: bool) -> Tensor:
    """Return unit vectors for new units, those of largest gradient first.

    Beyond the rank of M any orthonormal basis of its range is as good as any other, so further units get bases turned
    at random, and no two units are alike.

    Args:
        M: `sum (dL/dy) x^T` over the images, [outputs, inputs].
        count: number of new units.
        generator: turns the bases.
        columns: whether the vectors are for the layer that reads the units (left singular vectors), not for the one
            that writes them (right singular vectors in pairs of opposite sign).

    Returns:
        [count, outputs] or [count, inputs].
    """
    left, sizes, right = torch.linalg.svd(M.double(), full_matrices=False)
    basis = left.T if columns else right
    if sizes[0] > 0:
        basis = basis[sizes > _NEGLIGIBLE * sizes[0]]  # along the others the gradient is zero: those would be dead
    # singular vectors are unique up to their sign alone: make the largest entry positive
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    wanted = count if columns else -(-count // 2)
    bases = [basis]
    while sum(map(len, bases)) < wanted:
        rotation, _ = torch.linalg.qr(torch.randn(len(basis), len(basis), generator=generator, dtype=torch.float64))
        bases.append(rotation @ basis)
    vectors = torch.cat(bases)[:wanted]
    return vectors if columns else torch.cat([vectors, -vectors])[:count]


def with_directions(W: Tensor, new: Tensor, old: Tensor, vectors: Tensor, scale: float, *, dim: int) -> Tensor:
    """Return a grown weight with vectors at its new units, `scale` times as long as old units are in the mean.

    Args:
        W: the grown weight, zero at the new units; [rows, columns, ...].
        new: int64, the new units along `dim`.
        old: int64, the positions that are not new along the other of the first two dimensions.
        vectors: [new units, old positions, ...], or with the last dimensions flattened; unit vectors.
        scale: their length relative to the old units' mean norm.
        dim: the dimension of the units: 0 in the layer that writes them, 1 in the one that reads them.
    """
    units = W.transpose(0, dim)
    kept = torch.ones(len(units), dtype=torch.bool).index_fill_(0, new, False)
    norm = units[kept].flatten(1).norm(dim=1).mean()
    placed = torch.zeros_like(units[new])
    placed[:, old] = (scale * norm * vectors).reshape(len(new), len(old), *W.shape[2:]).to(W.dtype)
    return W.transpose(0, dim).index_copy(0, new, placed).transpose(0, dim).contiguous()
