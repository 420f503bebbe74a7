"""`mixture`: MixtureGrowth (Pham et al., WACV 2024, arXiv 2311.04251), with a compensation that makes it exact.

A weight is a grid of blocks, each a combination of templates (`growtool.templates`): a single block in a bank of whole
layers, a finer grid in a bank of sub-blocks. Growth copies the blocks of the grid. Where a row and a column of
different copies meet (off the diagonal), a new block stands, a new combination `N_ij = gain * sum_t c_ijt T_t`. As
published, each channel then receives more than before. Compensated, the diagonal blocks give back what the others of
their row add, `W'_ii = W - sum_j N_ij`: each row of blocks adds up to W, and the function stays.

All of it is linear in the coefficients, so a weight in template form grows in its coefficients alone.

Axes: O/o rows before/after, I/i columns before/after, T templates, B new blocks, k_out/k_in blocks of the grid.
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
from growtool.checkpoint.materialise import combined
from growtool.operators.base import Abilities, Layer
from growtool.plan.width import Mixture
from growtool.templates.coefficients import new_vectors
from growtool.templates.lift import Cell, cells
from growtool.templates.source import Grid

ABILITIES = Abilities(in_span=lambda section: True)


def expand(size: int, new_size: int, generator: torch.Generator) -> Expansion:
    """Return copies in turn, `[h, h, ...]`, the last one cut short if `new_size` is not a multiple of `size`."""
    return circular(size, new_size)


def grow(spec: Mixture, W: Tensor, layer: Layer) -> Tensor:
    """Return the grown grid of a weight [O, I, ...] whose rows and columns both grow; split any other tensor evenly."""
    if not is_grid(layer.maps):
        return split_evenly(W, layer.maps)
    return _completed(spec, _draft(spec, W, layer), W, layer.maps)


def grow_coefficients(spec: Mixture, W: Tensor, layer: Layer, rows: AxisMap, columns: AxisMap) -> Tensor:
    """Return the coefficients of the grown weight, for a weight in template form.

    Args:
        spec: coefficients, gain and compensation.
        W: the weight that the coefficients stand for [O, I, ...].
        layer: the target tensor; it has a grid.
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
    new = _new_blocks(spec, grid, layer)
    row_number, column_number = (_numbers(side) for side in (new.rows, new.columns))
    norms = [_row_norms(mixtures) for _, mixtures in combined(grid.bank, new.coefficients, W.dtype)]
    vectors = new.coefficients * _scales(spec, grid, W, new, norms)[:, None]
    for (row, column), vector in zip(new.places, vectors, strict=True):
        draft[row_number[row.replica, row.block], column_number[column.replica, column.block]] = vector
    return _completed(spec, draft, C, maps)


def tells_apart(spec: Mixture, templates: int, blocks: int) -> bool:
    """Return whether no exchange of copies leaves a grid unchanged, so that training tells copies apart.

    Args:
        spec: gain, coefficients and compensation.
        templates: T of the weight's bank; 0 for a weight without one.
        blocks: number of the weight's blocks before it grows, which use at most as many directions.
    """
    if not spec.gain or spec.coefficients not in ("orthogonal", "random") or templates < 2:
        return False
    # directions for orthogonal vectors: the null space, or else all that are orthogonal to the block beside (T - 1)
    unused = templates - min(templates, blocks)
    return spec.coefficients == "random" or spec.compensate or (unused or templates - 1) > 1


def is_grid(maps: Sequence[AxisMap]) -> bool:
    """Return whether both rows and columns of a weight grow, so that it becomes a grid of blocks."""
    return len(maps) >= 2 and summed_dim(maps) == 1 and not maps[0].is_identity and not maps[0].consumes


def _draft(spec: Mixture, W: Tensor, layer: Layer) -> Tensor:
    """Return the new blocks in their places and zeros elsewhere, [o, i, ...]."""
    draft = torch.zeros(layer.shape, dtype=W.dtype)
    grid = layer.grid()
    if grid is None:
        return draft
    new = _new_blocks(spec, grid, layer)
    place_of_row, place_of_column = (
        layout.places()[1][axis.index] for layout, axis in zip((grid.rows, grid.columns), layer.maps, strict=False)
    )
    # One pass over the templates: blocks are placed as they are made, and scaled once all of their norms are known.
    norms = []
    for rows, mixtures in combined(grid.bank, new.coefficients, W.dtype):
        norms.append(_row_norms(mixtures))
        for (row, column), mixture in zip(new.places, mixtures, strict=True):
            place = place_of_row[row.positions]
            here = (place >= rows.start) & (place < rows.stop)
            values = _part(mixture, place[here] - rows.start, place_of_column[column.positions])
            _put(draft, row.positions[here], column.positions, values)
    scales = _scales(spec, grid, W, new, norms).to(W.dtype)
    for (row, column), scale in zip(new.places, scales, strict=True):
        for positions in in_runs(row.positions, draft[0]):
            _put(draft, positions, column.positions, _part(draft, positions, column.positions) * scale)
    return draft


class _New(NamedTuple):
    """The new blocks of a grown grid.

    Attributes:
        rows, columns: the grown axes as blocks: which copy of which source block, at which positions.
        places: row and column of each new block.
        coefficients: float64 [B, T] of the new blocks, before they are scaled.
    """

    rows: list[Cell]
    columns: list[Cell]
    places: list[tuple[Cell, Cell]]
    coefficients: Tensor


def _new_blocks(spec: Mixture, grid: Grid, layer: Layer) -> _New:
    """Return the blocks where rows and columns of different copies meet, with their coefficients."""
    homes = _homes(layer.maps)
    rows, columns = (
        cells(axis, layout.places()[0]) for axis, layout in zip(layer.maps, (grid.rows, grid.columns), strict=False)
    )
    places = [(r, c) for r in rows for c in columns if r.replica % homes != c.replica % homes]
    C = grid.coefficients.double()
    beside = torch.stack([C[r.block, c.block] for r, c in places]) if places else C.new_zeros(0, C.shape[2])
    vectors = new_vectors(spec.coefficients, beside, C.flatten(0, 1), layer.generator())
    if spec.compensate and spec.coefficients == "orthogonal":
        _tell_apart(vectors, places)
    return _New(rows, columns, places, vectors)


def _scales(spec: Mixture, grid: Grid, W: Tensor, new: _New, norms: list[Tensor]) -> Tensor:
    """Return the factor that makes each new block `gain` times as large as the source block in its place, float64 [B].

    Sizes are Frobenius norms.

    Args:
        spec: the gain.
        grid: of W.
        W: the source tensor [O, I, ...].
        new: the new blocks.
        norms: of some rows of all new blocks before they are scaled, [B, rows]; then of the next.
    """
    if not new.coefficients.any():
        return torch.zeros(len(new.places), dtype=torch.float64)
    sizes = torch.linalg.vector_norm(torch.cat(norms, 1), dim=1)
    block_of_row, block_of_column = grid.rows.places()[0], grid.columns.places()[0]

    def size(row: int, column: int) -> Tensor:
        """Return the norm of a block of W, float64 [1]."""
        places = torch.nonzero(block_of_row == row).flatten(), torch.nonzero(block_of_column == column).flatten()
        norm: Tensor = torch.linalg.vector_norm(_row_norms(_part(W, *places)[None]), dim=1)
        return norm

    wanted = {beside: size(*beside) for beside in {(r.block, c.block) for r, c in new.places}}
    scales: Tensor = torch.cat([wanted[r.block, c.block] for r, c in new.places]) * spec.gain / sizes
    scales[sizes == 0] = 0.0
    return scales


def _tell_apart(vectors: Tensor, places: Sequence[tuple[Cell, Cell]]) -> None:
    """Negate vectors below the diagonal, in place, where all new blocks in the place of one source block are equal.

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
    """Return `W[rows][:, columns]`, without a copy if both are consecutive."""
    return at(at(W, 0, as_places(rows)), 1, as_places(columns))


def _put(W: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
    """Set `W[rows][:, columns] = values`."""
    if isinstance(as_places(rows), range) and isinstance(as_places(columns), range):
        _part(W, rows, columns).copy_(values)
    else:
        W[rows[:, None], columns] = values


def _row_norms(blocks: Tensor) -> Tensor:
    """Return the Euclidean norm of each row of each block [B, o, i, ...], float64 [B, o]."""
    rows = max(1, AT_ONCE // max(1, 2 * blocks[:, :1].numel()))  # twice: float64
    parts = (part.flatten(2).double() for part in blocks.split(rows, 1))
    return torch.cat([torch.linalg.vector_norm(part, dim=2) for part in parts], 1)


def _numbers(side: Sequence[Cell]) -> dict[tuple[int, int], int]:
    """Return the number of each block along an axis, by its copy and its source block."""
    return {(cell.replica, cell.block): number for number, cell in enumerate(side)}


def _homes(maps: Sequence[AxisMap]) -> int:
    """Return how many different home column blocks there are, see `home_share`."""
    return min(maps[0].replicas, maps[1].replicas)


def _completed(spec: Mixture, draft: Tensor, W: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """Add W in the home blocks of a draft: compensated, less what the draft's other blocks of each row add up to.

    Args:
        spec: the compensation.
        draft: the new blocks [o, i, ...], or their coefficients [k_out', k_in', T].
        W: the source weight [O, I, ...], or its coefficients [k_out, k_in, T]; the result is linear in draft and W.
        maps: how the dimensions of W grow.
    """
    rows, columns = maps[:2]
    homes = _homes(maps)
    for home in range(homes):
        rows_at_home = torch.nonzero(rows.replica % homes == home).flatten()
        share = home_share(columns, home, homes)
        for positions in in_runs(rows_at_home, draft[0]):
            part_maps, part = (rows.part(positions), *maps[1:]), draft.index_select(0, positions)
            if spec.compensate:
                complete(part, W, part_maps, share)
            else:
                part += complete(torch.zeros_like(part), W, part_maps, share)
            draft.index_copy_(0, positions, part)
    return draft
