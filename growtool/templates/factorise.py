"""Computing templates from layers: principal directions that layers share, and rank-one matrices of each layer.

Axes: L layers; T templates; P numbers of a layer; o rows of a layer, p numbers of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.checkpoint import arithmetic_dtype
from growtool.checkpoint.materialise import WHOLE, template_of


@dataclass(frozen=True, slots=True)
class Factored:
    """Layers as combinations of templates that were computed from them; a `Bank`.

    Attributes:
        parts: the templates [T, o, i, ...], or their factors [T, o] and [T, i, ...].
        coefficients: [L, T].
        block: the shape of a template, [o, i, ...].
        error: relative error ||W - W'|| / ||W|| over all layers.
    """

    parts: tuple[Tensor, ...]
    coefficients: Tensor
    block: tuple[int, ...]
    error: float

    @property
    def count(self) -> int:
        """T, the number of templates."""
        return len(self.parts[0])

    def template(self, t: int, rows: slice = WHOLE) -> Tensor:
        """Return template t, [o, i, ...], or some of its rows."""
        return template_of([part[t] for part in self.parts], self.block, rows)


def shared_directions(layers: Sequence[Tensor], *, rank: int | None, energy: float) -> Factored:
    """Return the principal directions of layers as templates, each as large as a layer (SVD of the layers [L, P]).

    Args:
        layers: weights of one shape.
        rank: number of templates to keep; None keeps `energy` of the squared norm.
        energy: the part of the squared norm to keep without `rank`.
    """
    shape, dtype = tuple(layers[0].shape), arithmetic_dtype(layers[0].dtype)
    M_LP = torch.stack([W.to(dtype).flatten() for W in layers])
    # M = U S V^T, where L is small and P is huge: U and S^2 come from the eigenvectors of M M^T, and V^T = S^-1 U^T M.
    squares, U_LL = torch.linalg.eigh(M_LP.double() @ M_LP.double().T)
    squares, U_LL = squares.flip(0).clamp(min=0), U_LL.flip(1)  # eigh sorts them from the smallest on
    kept = _kept(squares, rank, energy)
    U_LT = U_LL[:, :kept]
    U_LT = U_LT * U_LT.gather(0, U_LT.abs().argmax(0, keepdim=True)).sign()  # an eigenvector's sign is arbitrary
    S = squares[:kept].sqrt()
    # Every template is given the root mean square of the layers' norms; the coefficients make up for it.
    scale = (squares.sum() / len(layers)).sqrt().clamp(min=1e-300)
    inverse = torch.where(S > 0, scale / S.clamp(min=1e-300), 0.0)
    T_TP = (U_LT * inverse).T.to(dtype) @ M_LP
    C_LT = U_LT * (S / scale)
    lost = torch.linalg.vector_norm(C_LT.to(dtype) @ T_TP - M_LP)
    error = float(lost / torch.linalg.vector_norm(M_LP).clamp(min=1e-38))  # in float32 1e-300 would be zero
    return Factored((T_TP.reshape(kept, *shape),), C_LT, shape, error)


def low_rank_atoms(layers: Sequence[Tensor], *, rank: int | None, energy: float) -> Factored:
    """Return the leading singular pairs of each layer, seen as a matrix [o, p], as rank-one templates of one bank.

    Args:
        layers: weights of one shape.
        rank: number of templates for each layer; None takes what the layer that needs most needs for `energy`.
        energy: the part of each layer's squared norm to keep without `rank`.
    """
    shape, dtype = tuple(layers[0].shape), arithmetic_dtype(layers[0].dtype)
    pairs = [torch.linalg.svd(W.to(dtype).flatten(1), full_matrices=False) for W in layers]
    kept = max(_kept(S.double() ** 2, rank, energy) for _, S, _ in pairs)
    left = torch.cat([(U[:, :kept] * S[:kept].sqrt()).T for U, S, _ in pairs])
    right = torch.cat([S[:kept].sqrt()[:, None] * V[:kept] for _, S, V in pairs])
    C_LT = torch.eye(len(layers), dtype=torch.float64).repeat_interleave(kept, dim=1)
    # The squared error of a truncated SVD is the sum of the squares of the singular values left out (Eckart-Young).
    total = sum(float((S.double() ** 2).sum()) for _, S, _ in pairs)
    lost = sum(float((S[kept:].double() ** 2).sum()) for _, S, _ in pairs)
    return Factored((left, right.reshape(-1, *shape[1:])), C_LT, shape, (lost / max(total, 1e-300)) ** 0.5)


def _kept(squares: Tensor, rank: int | None, energy: float) -> int:
    """Return how many of the squared singular values to keep, which are sorted from the largest on."""
    if rank is not None:
        return min(rank, len(squares))
    shares = torch.cumsum(squares, 0) / squares.sum().clamp(min=1e-300)
    return min(len(squares), 1 + int((shares < energy * (1 - 1e-12)).sum()))  # rounding must not ask for one more
