"""What a width operator is given, how it draws random numbers, and what most operators do with weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Blank, Fill
from growtool.algebra.layers import complete, deviation, split_evenly, summed_dim
from growtool.algebra.places import along
from growtool.templates.source import Grid

_POOL = 1 << 18  # random numbers; the rows of a large tensor are stretches of them


@dataclass(frozen=True, slots=True)
class Layer:
    """One tensor to grow.

    Attributes:
        name: the target tensor's name.
        maps: how each dimension grows.
        seed: the plan's seed.
        fill: what stands at blank rows: zeros, the mean of the other rows, or noise of the weight's deviation.
        grid: gives the source tensor as a grid of combinations of templates, or None if it has no templates.
        next_block: gives the source's tensor that is the same one block on; None at the last block, and outside
            sequences of blocks.
        pair_partners: dimensions with blank channels, each with int64 [positions], the other position of the pair that
            each position belongs to.
        second: gives the same tensor of the second source; None if the plan names none.
        initial: gives the target tensor as its library initialises it.
    """

    name: str
    maps: tuple[AxisMap, ...]
    seed: int
    fill: Fill = "zero"
    grid: Callable[[], Grid | None] = lambda: None
    next_block: Callable[[], Tensor] | None = None
    pair_partners: tuple[tuple[int, Tensor], ...] = ()
    second: Callable[[], Tensor] | None = None
    initial: Callable[[], Tensor] | None = None

    def generator(self) -> torch.Generator:
        """Return a generator that depends on the seed and the tensor's name alone, not on the order of work."""
        return generator_for(self.seed, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The target shape."""
        return tuple(len(axis.index) for axis in self.maps)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a width operator does besides copying channels; its module holds one as `ABILITIES`.

    Attributes:
        blanks: what blank channels may hold, the first choice first; empty for an operator that only copies.
        always_blank: whether blanks stand even where copies would be exact.
        hidden_alone: whether it grows only hidden units that one layer writes and one layer reads.
        every_tensor: whether it makes tensors that do not grow, too.
        deeper: whether it makes these even if the target is only deeper, not wider.
        in_pairs: whether new units that nothing reads yet come in pairs.
        in_span: whether the new weights of a plan's section are combinations of the layer's templates, so that a
            checkpoint in template form stays one; such an operator has a `grow_coefficients`.
    """

    blanks: tuple[Blank, ...] = ()
    always_blank: bool = False
    hidden_alone: bool = False
    every_tensor: bool = False
    deeper: bool = False
    in_pairs: bool = False
    in_span: Callable[[Any], bool] = lambda section: False


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a generator seeded by the plan's seed and a name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def drawn(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype, deviation: float = 1.0) -> Tensor:
    """Return normal random numbers with mean zero; in a large tensor they repeat, but no two rows are equal.

    A row of a large tensor is a stretch of one pool of numbers, each row at an offset of its own: drawing a number for
    every weight would take longer than anything else that growth does.

    Args:
        shape: of the result, rows first.
        generator: of the tensor.
        dtype: of the result.
        deviation: standard deviation.
    """
    rows, length = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
    starts = max(_POOL, rows)
    if rows * length <= starts + length:
        return torch.randn(shape, generator=generator, dtype=dtype).mul_(deviation)
    pool = torch.randn(starts + length, generator=generator, dtype=dtype).mul_(deviation)
    # one offset out of each of as many strata as there are rows, so that no two offsets are equal
    stratum = starts // rows
    offsets = torch.randperm(rows, generator=generator) * stratum + torch.randint(stratum, (rows,), generator=generator)
    return pool.unfold(0, length, 1).index_select(0, offsets).reshape(tuple(shape))


def rows_of(maps: Sequence[AxisMap]) -> int | None:
    """Return the first dimension that grows and that no sum runs over, or None if there is none."""
    return next((dim for dim, axis in enumerate(maps) if not axis.consumes and not axis.is_identity), None)


def split_among_copies(W: Tensor, layer: Layer, gain: float | None) -> Tensor:
    """Split W among the copies of each channel it reads: equally, or with noise that cancels over the copies.

    That is `Z + (E W - Z E) R` with the equal R. The draft Z is noise of deviation `gain` at copies; at blank columns
    it is noise of W's own deviation where these meet zeros alone, and zero elsewhere.

    Args:
        W: the source tensor.
        layer: the target tensor.
        gain: standard deviation of the noise relative to that of W; None for the equal split.
    """
    dim = summed_dim(layer.maps)
    blank = any(axis.has_blanks for axis in layer.maps)
    if dim is None or (gain is None and not blank):
        return fill_rows(split_evenly(W, layer.maps), W, layer)
    columns = layer.maps[dim]
    Z = drawn(layer.shape, layer.generator(), W.dtype, deviation(W))
    size = torch.full((layer.shape[dim],), gain or 0.0, dtype=W.dtype)
    size.masked_fill_(columns.blank, 0.0).masked_fill_(columns.free, 1.0)
    Z.mul_(along(size, dim, W.ndim))
    return fill_rows(complete(Z, W, layer.maps), W, layer)


def fill_rows(grown: Tensor, W: Tensor, layer: Layer) -> Tensor:
    """Write `layer.fill` at the blank positions of dimensions that no sum runs over, in place; return the tensor."""
    for dim, axis in enumerate(layer.maps):
        if axis.consumes or not axis.has_blanks:
            continue
        rows = torch.nonzero(axis.blank).flatten()
        if layer.fill == "mean":
            mean = grown.index_select(dim, axis.kept).mean(dim, keepdim=True)
            grown.index_copy_(dim, rows, mean.expand_as(grown.index_select(dim, rows)).contiguous())
        elif layer.fill == "noise":
            noise = drawn(grown.shape, layer.generator(), grown.dtype, deviation(W))
            grown.index_copy_(dim, rows, noise.index_select(dim, rows))
        else:
            grown.index_fill_(dim, rows, 0)
    return grown
