"""`mixture`: MixtureGrowth (Pham et al., WACV 2024, arXiv 2311.04251), with a compensation that makes it exact.

A weight is a grid of blocks, each a combination of templates (`growtool.templates`): a single block in a bank of whole
layers, a finer grid in a bank of sub-blocks. Growth copies blocks. Where a row and a column of different copies meet,
the new block is a new combination, `N_ij = gain * sum_t c_ijt T_t`. Published, each channel then receives more than
before; compensated, the blocks of like copies give back what the others of their row add, `W'_ii = W - sum_j N_ij`, and
the function stays. All of it is linear in the coefficients, so a weight in template form grows in them alone.

Axes: O/o rows before/after, I/i columns before/after, T templates, B new blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Expansion, circular
from growtool.algebra.layers import AT_ONCE, complete, home_share, in_runs, split_evenly, summed_dim
from growtool.algebra.places import as_places, at
from growtool.checkpoint.materialise import combine
from growtool.operators.base import Abilities, Layer, Read
from growtool.plan.width import Mixture
from growtool.templates.coefficients import new_vectors
from growtool.templates.lift import Cell, cells
from growtool.templates.source import Grid

ABILITIES = Abilities(in_span=lambda section: True)


def expand(spec: Mixture, size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Copies in turn, `[h, h, ...]`, the last of them cut short where `new_size` is not a multiple of `size`."""
    return circular(size, new_size)


def loss(spec: Mixture) -> str | None:
    """Why the operator itself changes the function, or None."""
    if spec.compensate or spec.gain == 0 or spec.coefficients == "zero":
        return None
    return "mixture without compensation adds the new blocks to what each channel receives, as published"


def grow(spec: Mixture, W: Tensor, layer: Layer, read: Read) -> Tensor:
    """The grid of a weight whose rows and columns both grow; any other tensor is split evenly.

    Args:
        spec: bank, coefficients, gain and compensation.
        W: the source tensor, [O, I, ...].
        layer: where it goes.
        read: gives a source tensor by name.
    """
    if not is_grid(layer.maps):
        return split_evenly(W, layer.maps)
    return _completed(spec, _draft(spec, W, layer), W, layer.maps)


def grow_coefficients(spec: Mixture, W: Tensor, layer: Layer, rows: AxisMap, columns: AxisMap) -> Tensor:
    """The same growth in the coefficients of a weight in template form.

    Args:
        spec: coefficients, gain and compensation.
        W: the weight the coefficients stand for, [O, I, ...].
        layer: where it goes; it has a grid.
        rows, columns: how the blocks of the grid grow.

    Returns:
        float64 [k_out, k_in, T] of the grown grid.
    """
    grid = layer.grid()
    assert grid is not None, "a weight in template form has a grid"
    C, maps = grid.coefficients.double(), (rows, columns, AxisMap.unchanged(grid.bank.count))
    if not is_grid(layer.maps):
        return split_evenly(C, maps)
    draft = torch.zeros(len(rows.index), len(columns.index), grid.bank.count, dtype=torch.float64)
    new = _new_blocks(spec, grid, W, layer, grid.rows.places()[0], grid.columns.places()[0])
    number = [_numbers(side) for side in (new.rows, new.columns)]
    for (row, column), vector in zip(new.places, new.coefficients, strict=True):
        draft[number[0][row.replica, row.block], number[1][column.replica, column.block]] = vector
    return _completed(spec, draft, C, maps)


def tells_apart(spec: Mixture, templates: int, blocks: int) -> bool:
    """Whether no exchange of copies leaves a grid as it is.

    Args:
        spec: gain, coefficients and compensation.
        templates: of the weight's bank; 0 for a weight without.
        blocks: of the weight before it grows; it uses at most so many directions.
    """
    if not spec.gain or spec.coefficients not in ("orthogonal", "random") or templates < 2:
        return False
    left = templates - min(templates, blocks)
    return spec.coefficients == "random" or spec.compensate or (left or templates - 1) > 1


def is_grid(maps: Sequence[AxisMap]) -> bool:
    """Whether both rows and columns of a weight grow, so that it becomes a grid of blocks."""
    return len(maps) >= 2 and summed_dim(maps) == 1 and not maps[0].is_identity and not maps[0].consumes


def _draft(spec: Mixture, W: Tensor, layer: Layer) -> Tensor:
    """The new blocks in their places, zeros elsewhere, of the target's shape."""
    draft = torch.zeros(layer.shape, dtype=W.dtype)
    grid = layer.grid()
    if grid is not None:
        places = grid.rows.places(), grid.columns.places()
        new = _new_blocks(spec, grid, W, layer, places[0][0], places[1][0])
        for (row, column), mixture in zip(new.places, new.mixtures, strict=False):
            r, c = places[0][1][layer.maps[0].index[row.positions]], places[1][1][layer.maps[1].index[column.positions]]
            _put(draft, row.positions, column.positions, _part(mixture, r, c))
    return draft


class _New(NamedTuple):
    """New blocks.

    Attributes:
        rows, columns: the blocks of both axes.
        places: where the new ones are among them.
        coefficients: [B, T].
        mixtures: what they stand for, [B, o, i, ...]; empty where all are zero.
    """

    rows: list[Cell]
    columns: list[Cell]
    places: list[tuple[Cell, Cell]]
    coefficients: Tensor
    mixtures: Tensor


def _new_blocks(
    spec: Mixture, grid: Grid, W: Tensor, layer: Layer, block_of_row: Tensor, block_of_column: Tensor
) -> _New:
    """Every block where unlike copies meet, scaled to `gain` times the size of the source block it stands beside."""
    homes = _homes(layer.maps)
    rows, columns = cells(layer.maps[0], block_of_row), cells(layer.maps[1], block_of_column)
    places = [(r, c) for r in rows for c in columns if r.replica % homes != c.replica % homes]
    C = grid.coefficients.double()
    beside = torch.stack([C[r.block, c.block] for r, c in places]) if places else C.new_zeros(0, C.shape[2])
    vectors = new_vectors(spec.coefficients, beside, C.flatten(0, 1), layer.generator())
    if spec.compensate and spec.coefficients == "orthogonal":
        _tell_apart(vectors, places)
    if not vectors.any():
        return _New(rows, columns, places, vectors, W.new_zeros(0))

    def block(row: int, column: int) -> Tensor:
        return _part(
            W, torch.nonzero(block_of_row == row).flatten(), torch.nonzero(block_of_column == column).flatten()
        )

    mixtures = combine(grid.bank, vectors, W.dtype)
    sizes = _sizes(mixtures)
    beside_each = {(r.block, c.block) for r, c in places}
    wanted = {(row, column): _sizes(block(row, column)[None]) for row, column in beside_each}
    scale = torch.cat([wanted[r.block, c.block] for r, c in places]) * spec.gain / sizes
    scale[sizes == 0] = 0.0
    mixtures.mul_(scale.to(W.dtype).reshape(-1, *[1] * (W.ndim)))
    return _New(rows, columns, places, vectors * scale[:, None], mixtures)


def _tell_apart(vectors: Tensor, places: Sequence[tuple[Cell, Cell]]) -> None:
    """Where all vectors beside one block are equal, turn those below the diagonal around, in place.

    Templates that leave a single direction (two layers in a stage, say) would make [[W - N, N], [N, W - N]], which is
    the same with its copies exchanged, so that training could never tell them apart.
    """
    beside: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (row, column) in enumerate(places):
        beside[row.block, column.block].append(number)
    for numbers in beside.values():
        if len(numbers) > 1 and torch.allclose(vectors[numbers], vectors[numbers[0]]):
            below = [number for number in numbers if places[number][0].replica > places[number][1].replica]
            vectors[below] = -vectors[below]


def _part(W: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`W[rows][:, columns]`, without a copy where both are runs."""
    return at(at(W, 0, as_places(rows)), 1, as_places(columns))


def _put(W: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
    """`W[rows][:, columns] = values`, in place."""
    if isinstance(as_places(rows), range) and isinstance(as_places(columns), range):
        _part(W, rows, columns).copy_(values)
    else:
        W[rows[:, None], columns] = values


def _sizes(blocks: Tensor) -> Tensor:
    """Frobenius norms, float64 [B]."""
    rows = max(1, AT_ONCE // max(1, 2 * blocks[:, :1].numel()))  # twice: float64
    parts = (part.flatten(1).double() for part in blocks.split(rows, 1))
    squares = [torch.stack([vector.dot(vector) for vector in part]) for part in parts]
    return torch.stack(squares).sum(0).sqrt()


def _numbers(side: Sequence[Cell]) -> dict[tuple[int, int], int]:
    return {(cell.replica, cell.block): number for number, cell in enumerate(side)}


def _homes(maps: Sequence[AxisMap]) -> int:
    return min(maps[0].replicas, maps[1].replicas)


def _completed(spec: Mixture, draft: Tensor, W: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """Put the copies of W in their home blocks; compensated, less what the draft holds in the others of each row.

    Linear in (draft, W): both may be weights, or coefficients.
    """
    rows, columns = maps[:2]
    homes = _homes(maps)
    for home in range(homes):
        block = torch.nonzero(rows.replica % homes == home).flatten()
        share = home_share(columns, home, homes)
        for some in in_runs(block, draft[0]):
            part_maps, part = (rows.part(some), *maps[1:]), draft.index_select(0, some)
            if spec.compensate:
                complete(part, W, part_maps, share)
            else:
                part += complete(torch.zeros_like(part), W, part_maps, share)
            draft.index_copy_(0, some, part)
    return draft
