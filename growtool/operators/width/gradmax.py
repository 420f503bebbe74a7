"""`gradmax`: new hidden units that the loss changes fastest (GradMax, arXiv 2201.05125, section 3).

In `y = W2 phi(W1 x)` a new unit with zero weights on one side leaves y alone. With zero rows V in W1, the gradient on V
is `phi'(0) U^T M` for the unit's columns U in W2, `M = sum (dL/dy) x^T` over the images: of all orthonormal U, the left
singular vectors of M make it largest. Where phi has no slope at zero (ReLU), or a BatchNorm would divide zeros by their
deviation, such a unit would be dead, or explode: there the columns are zero, and the rows are right singular vectors of
M in pairs of opposite sign, since `phi(z) - phi(-z)` is proportional to z for ReLU, GELU and SiLU.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion, padded
from growtool.operators.base import Abilities, Layer, Read, no_loss, split_among_copies
from growtool.plan.width import Gradmax

ABILITIES = Abilities(blanks=("silent", "open"), always_blank=True, hidden_alone=True)
loss = no_loss
_NEGLIGIBLE = 1e-6  # of the largest singular value


def expand(spec: Gradmax, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """The old units, and new ones beside them."""
    return padded(size, new_size, copies=1)


def grow(spec: Gradmax, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """Old values where units were, zeros beside them; `directions` go there once images have been seen."""
    return split_among_copies(W, replace(layer, fill="zero" if layer.fill == "noise" else layer.fill), None)


def directions(M: Tensor, count: int, generator: torch.Generator, *, columns: bool) -> Tensor:
    """Unit vectors for new units, those of largest gradient first.

    Beyond the rank of M any orthonormal basis of its range is as good as any other, so further units get one turned at
    random, and no two units are alike.

    Args:
        M: gradient on y times x, summed, [outputs, inputs].
        count: of new units.
        generator: turns the bases.
        columns: vectors for what reads the units (left singular vectors), else for what writes them (right ones, in
            pairs of opposite sign).

    Returns:
        [count, outputs] or [count, inputs].
    """
    left, sizes, right = torch.linalg.svd(M.double(), full_matrices=False)
    basis = left.T if columns else right
    if sizes[0] > 0:
        basis = basis[sizes > _NEGLIGIBLE * sizes[0]]  # along the others the gradient is zero: those would be dead
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    wanted = count if columns else -(-count // 2)
    found = [basis]
    while sum(map(len, found)) < wanted:
        turn, _ = torch.linalg.qr(torch.randn(len(basis), len(basis), generator=generator, dtype=torch.float64))
        found.append(turn @ basis)
    vectors = torch.cat(found)[:wanted]
    return vectors if columns else torch.cat([vectors, -vectors])[:count]


def with_directions(W: Tensor, new: Tensor, old: Tensor, vectors: Tensor, scale: float, *, dim: int) -> Tensor:
    """A grown weight with the vectors at its new units, of `scale` times the old units' mean norm.

    Args:
        W: the grown weight, zero at the new units; [rows, columns, ...].
        new: int64, the new units along `dim`.
        old: int64, the positions that are not new along the other of the first two dimensions.
        vectors: [new units, old positions, ...] or flattened so.
        scale: of the norm.
        dim: of the units, 0 for what writes them, 1 for what reads them.
    """
    units = W.transpose(0, dim)
    kept = torch.ones(len(units), dtype=torch.bool).index_fill_(0, new, False)
    norm = units[kept].flatten(1).norm(dim=1).mean()
    placed = torch.zeros_like(units[new])
    placed[:, old] = (scale * norm * vectors).reshape(len(new), len(old), *W.shape[2:]).to(W.dtype)
    return W.transpose(0, dim).index_copy(0, new, placed).transpose(0, dim).contiguous()
