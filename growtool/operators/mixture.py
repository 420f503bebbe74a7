"""`mixture`: MixtureGrowth (Pham et al., WACV 2024, arXiv 2311.04251), with a compensation that makes it exact.

A weight that grows k-fold on both sides is a k x k grid of blocks. Its diagonal holds the trained weight, its other
blocks new linear combinations of templates, `N_ij = gain * sum_t c_ijt T_t`. The templates are the weights of the
same-shape layers of the stage. Published, each channel then receives more than before; compensated, the diagonal gives
back what the other blocks of its row add, `W'_ii = W - sum_j N_ij`, and the function stays.

Axes: O/o rows before/after, I/i columns before/after, T templates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from growtool.algebra.expansion import AxisMap, Expansion, tiled
from growtool.algebra.layers import complete, home_share, split_evenly, summed_dim
from growtool.operators.base import Layer, Read
from growtool.plan.schema import Mixture


def expand(spec: Mixture, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """`[h, h, ...]`. Raises ValueError where `new_size` is not a multiple of `size`."""
    return tiled(size, new_size)


def loss(spec: Mixture) -> str | None:
    """Why the operator itself changes the function, or None."""
    if spec.compensate or spec.gain == 0 or spec.coefficients == "zero":
        return None
    return "mixture without compensation adds the new blocks to what each channel receives, as published"


def grow(spec: Mixture, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """The grid of a weight whose rows and columns both grow; any other tensor is split evenly.

    Args:
        spec: coefficients, gain and compensation.
        W: the source tensor, [O, I, ...].
        layer: where it goes.
        read: gives a template by name, in the type of W.
    """
    if W.ndim < 2 or summed_dim(layer.maps) != 1 or layer.maps[0].is_identity or layer.maps[0].consumes:
        return split_evenly(W, layer.maps)
    rows, columns = layer.maps[:2]
    homes = min(rows.replicas, columns.replicas)
    draft = torch.zeros(layer.shape, dtype=W.dtype)
    _fill_with_mixtures(draft, spec, W, layer, read, homes)
    for home in range(homes):
        block = torch.nonzero(rows.replica % homes == home).flatten()
        share = home_share(columns, home, homes)
        maps = (AxisMap.copied(rows.size, rows.index[block], rows.replica[block]), *layer.maps[1:])
        if spec.compensate:
            part = complete(draft.index_select(0, block), W, maps, share)
        else:
            part = complete(torch.zeros(len(block), *layer.shape[1:], dtype=W.dtype), W, maps, share)
            part += draft.index_select(0, block)
        draft.index_copy_(0, block, part)
    return draft


def _fill_with_mixtures(draft: Tensor, spec: Mixture, W: Tensor, layer: Layer, read: Read, homes: int) -> None:
    rows, columns = layer.maps[:2]
    blocks = [
        (i, j) for i in range(rows.replicas) for j in range(columns.replicas) if i % homes != j % homes
    ]  # fmt: skip
    c_BT = coefficients(spec, len(layer.templates), layer.own, len(blocks), layer.generator())
    if not blocks or not c_BT.any():
        return
    mixtures = [torch.zeros_like(W) for _ in blocks]
    for t, name in enumerate(layer.templates):
        if c_BT[:, t].any():
            template = read(name)
            for b, mixture in enumerate(mixtures):
                mixture.add_(template, alpha=float(c_BT[b, t]))
    for (i, j), mixture in zip(blocks, mixtures, strict=True):
        size = float(torch.linalg.vector_norm(mixture))
        if size > 0:
            mixture.mul_(spec.gain * float(torch.linalg.vector_norm(W)) / size)
        r = torch.nonzero(rows.replica == i).flatten()
        c = torch.nonzero(columns.replica == j).flatten()
        draft[r[:, None], c] = mixture[rows.index[r][:, None], columns.index[c]]


def coefficients(spec: Mixture, templates: int, own: int, blocks: int, generator: torch.Generator) -> Tensor:
    """New coefficient vectors, one per block off the diagonal.

    The layer's own vector over the raw bank is one-hot. `orthogonal` vectors are unit vectors orthogonal to it and, as
    long as the bank has room, to each other; beyond that they are orthogonal to the own vector alone. Signs are fixed
    so that the largest entry is positive. A bank with no other layer has no such vector: the block stays zero. (The
    public reference leaves its first new block at its random start instead.)

    Returns:
        float64 [blocks, T].
    """
    c = torch.zeros(blocks, templates, dtype=torch.float64)
    if spec.coefficients == "copy":
        c[:, own] = 1.0
    elif spec.coefficients == "random":
        c = torch.randn(blocks, templates, generator=generator, dtype=torch.float64)
        c /= c.norm(dim=1, keepdim=True)
    elif spec.coefficients == "orthogonal" and templates > 1:
        room = templates - 1
        for start in range(0, blocks, room):
            count = min(room, blocks - start)
            drawn = torch.randn(templates, count, generator=generator, dtype=torch.float64)
            drawn[own] = 0.0
            q = torch.linalg.qr(drawn).Q.T
            largest = q.gather(1, q.abs().argmax(1, keepdim=True))
            c[start : start + count] = q * largest.sign()
        c[:, own] = 0.0
    return c
