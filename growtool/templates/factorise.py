"""Templates that are not layers themselves: the directions layers share, and rank-one atoms of each.

Axes: L layers; T templates; P numbers of a layer; o rows, p the numbers of a row.
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
    """Layers as combinations of templates that were computed from them.

    Attributes:
        parts: the templates [T, o, i, ...], or their factors [T, o] and [T, i, ...].
        coefficients: [L, T].
        block: shape of a template.
        error: ||W - W'|| / ||W|| over all layers.
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
        """Template t, [o, i, ...], or some of its rows."""
        return template_of([part[t] for part in self.parts], self.block, rows)


def shared_directions(layers: Sequence[Tensor], *, rank: int | None, energy: float) -> Factored:
    """The principal directions of a group of layers, each as large as a layer (SVD of the stacked layers [L, P]).

    Args:
        layers: of one shape.
        rank: templates to keep; None keeps `energy` of the squared norm.
        energy: see `rank`.
    """
    shape, dtype = tuple(layers[0].shape), arithmetic_dtype(layers[0].dtype)
    M_LP = torch.stack([W.to(dtype).flatten() for W in layers])
    squares, U = torch.linalg.eigh(M_LP.double() @ M_LP.double().T)
    squares, U = squares.flip(0).clamp(min=0), U.flip(1)
    kept = _kept(squares, rank, energy)
    U = U[:, :kept] * U[:, :kept].gather(0, U[:, :kept].abs().argmax(0, keepdim=True)).sign()
    sizes = squares[:kept].sqrt()
    scale = (squares.sum() / len(layers)).sqrt().clamp(min=1e-300)
    inverse = torch.where(sizes > 0, scale / sizes.clamp(min=1e-300), 0.0)
    T_TP = (U * inverse).T.to(dtype) @ M_LP
    C_LT = U * (sizes / scale)
    lost = torch.linalg.vector_norm(C_LT.to(dtype) @ T_TP - M_LP)
    error = float(lost / torch.linalg.vector_norm(M_LP).clamp(min=1e-38))
    return Factored((T_TP.reshape(kept, *shape),), C_LT, shape, error)


def low_rank_atoms(layers: Sequence[Tensor], *, rank: int | None, energy: float) -> Factored:
    """The leading singular pairs of each layer as a matrix [o, p], side by side in one bank.

    Args:
        layers: of one shape.
        rank: atoms of each layer; None takes as many as the neediest layer needs for `energy`.
        energy: part of each layer's squared norm to keep.
    """
    shape, dtype = tuple(layers[0].shape), arithmetic_dtype(layers[0].dtype)
    pairs = [torch.linalg.svd(W.to(dtype).flatten(1), full_matrices=False) for W in layers]
    kept = max(_kept(S.double() ** 2, rank, energy) for _, S, _ in pairs)
    left = torch.cat([(U[:, :kept] * S[:kept].sqrt()).T for U, S, _ in pairs])
    right = torch.cat([S[:kept].sqrt()[:, None] * V[:kept] for _, S, V in pairs])
    C = torch.eye(len(layers), dtype=torch.float64).repeat_interleave(kept, dim=1)
    whole = sum(float((S.double() ** 2).sum()) for _, S, _ in pairs)
    lost = sum(float((S[kept:].double() ** 2).sum()) for _, S, _ in pairs)
    return Factored((left, right.reshape(-1, *shape[1:])), C, shape, (lost / max(whole, 1e-300)) ** 0.5)


def _kept(squares: Tensor, rank: int | None, energy: float) -> int:
    """How many of the sorted squared singular values to keep."""
    if rank is not None:
        return min(rank, len(squares))
    shares = torch.cumsum(squares, 0) / squares.sum().clamp(min=1e-300)
    return min(len(squares), 1 + int((shares < energy * (1 - 1e-12)).sum()))
