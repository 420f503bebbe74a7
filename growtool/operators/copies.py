"""Weights of copied channels that keep the function, or that keep the size of every activation instead.

Where the function is kept, the copies of a channel stay equal. To tell them apart at once, a copy may get a row of its
own, `w' = c (w + g n)` with n random, of the size of w, and `c = (1 + g^2)^-1/2`: its activations are as large as the
channel's and correlate with them by rho = c, those of two such copies with each other by `c^2`. A sum over the channel
becomes a sum over k copies that agree in part, which stays as large with the factor

    s_k = (sum_ij rho_ij)^-1/2 = (1 + (k - 1) (1 + 2 c + (k - 2) c^2))^-1/2,

which is 1/k for equal copies (g = 0, the function is kept) and `k^-1/2` for copies that have nothing in common. Root
mean squares are kept in the mean over random weights, after SPARKLING's signal preservation (arXiv 2602.02472).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.layers import copy_positions, split_evenly
from growtool.algebra.places import along
from growtool.operators.base import Abilities, Layer, drawn, rows_of, split_among_copies
from growtool.plan.width import Copies

EQUAL_IN_SPAN = Abilities(in_span=lambda section: section.split == "equal")  # with noise, copies leave the span


def grow_copies(spec: Copies, W: Tensor, layer: Layer) -> Tensor:
    """Return W with its rows copied, and its columns shared among copies as `spec.keep` and `spec.split` say."""
    if spec.keep == "function":
        return split_among_copies(W, layer, spec.noise)
    grown = copy_positions(_with_noise(W, layer, spec.gain), layer.maps, but=rows_of(layer.maps))
    for dim, axis in enumerate(layer.maps):
        if axis.consumes and not axis.is_identity:
            share = share_of_like(1.0 / axis.share, spec.gain).to(grown.dtype)
            grown.mul_(along(share, dim, grown.ndim))
    return grown


def share_of_like(copies: Tensor, gain: float) -> Tensor:
    """Return s_k for each number k of copies, of the shape of `copies`."""
    c = (1 + gain**2) ** -0.5
    # k ones on the diagonal; 2 (k - 1) times c, between the channel and its copies; (k - 1) (k - 2) times c^2
    correlations: Tensor = 1 + (copies - 1) * (1 + 2 * c + (copies - 2) * c**2)
    return correlations.rsqrt()


def _with_noise(W: Tensor, layer: Layer, gain: float) -> Tensor:
    """Return W with its rows copied, the copies `c (w + g n)` if the tensor mixes channels, else plain copies."""
    rows = rows_of(layer.maps)
    if rows is None:
        return W
    axis = layer.maps[rows]
    grown = W.index_select(rows, axis.index)
    if not _mixes(W, layer.maps, rows):
        return grown
    others = [dim for dim in range(W.ndim) if dim != rows]
    size = grown.square().mean(others, keepdim=True).sqrt()
    noise = drawn(grown.shape, layer.generator(), grown.dtype) * size
    new = (axis.replica > 0).reshape([-1 if dim == rows else 1 for dim in range(W.ndim)])
    return torch.where(new, (grown + gain * noise) * (1 + gain**2) ** -0.5, grown)


def _mixes(W: Tensor, maps: Sequence[AxisMap], rows: int) -> bool:
    """Return whether a tensor mixes channels: not so a vector, a table, or a depthwise kernel [O, 1, ...]."""
    return any(axis.consumes for axis in maps) or (rows == 0 and W.ndim > 1 and W.shape[1] > 1)


def split_coefficients(spec: Copies, W: Tensor, layer: Layer, rows: AxisMap, columns: AxisMap) -> Tensor:
    """Return the coefficients of the even split of a weight in template form, float64 [k_out, k_in, T].

    Args:
        spec: with equal parts, as noise would not be a combination of templates.
        W: the weight that the coefficients stand for.
        layer: with its grid.
        rows, columns: how the blocks of the grid grow.
    """
    grid = layer.grid()
    assert grid is not None, "a weight in template form has a grid"
    return split_evenly(grid.coefficients.double(), (rows, columns, AxisMap.unchanged(grid.bank.count)))
