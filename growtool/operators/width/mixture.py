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
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Expansion, circular
from growtool.algebra.layers import AT_ONCE, complete, home_share, in_runs, split_evenly, summed_dim
from growtool.algebra.places import as_places, at
from growtool.checkpoint.materialise import combined
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
    new = _new_blocks(spec, grid, layer)
    number = [_numbers(side) for side in (new.rows, new.columns)]
    vectors = new.coefficients * _scales(spec, grid, W, new, lambda rows, mixtures: None)[:, None]
    for (row, column), vector in zip(new.places, vectors, strict=True):
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
    if grid is None:
        return draft
    new = _new_blocks(spec, grid, layer)
    place_of_row, place_of_column = (
        layout.places()[1][axis.index] for layout, axis in zip((grid.rows, grid.columns), layer.maps, strict=False)
    )

    def put(rows: slice, mixtures: Tensor) -> None:
        for (row, column), mixture in zip(new.places, mixtures, strict=True):
            within = place_of_row[row.positions]
            here = (within >= rows.start) & (within < rows.stop)
            values = _part(mixture, within[here] - rows.start, place_of_column[column.positions])
            _put(draft, row.positions[here], column.positions, values)

    scales = _scales(spec, grid, W, new, put).to(W.dtype)
    for (row, column), scale in zip(new.places, scales, strict=True):
        for some in in_runs(row.positions, draft[0]):
            _put(draft, some, column.positions, _part(draft, some, column.positions) * scale)
    return draft


class _New(NamedTuple):
    """New blocks.

    Attributes:
        rows, columns: the blocks of both axes.
        places: where the new ones are among them.
        coefficients: [B, T], before they are scaled.
    """

    rows: list[Cell]
    columns: list[Cell]
    places: list[tuple[Cell, Cell]]
    coefficients: Tensor


def _new_blocks(spec: Mixture, grid: Grid, layer: Layer) -> _New:
    """Every block where unlike copies meet."""
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


def _scales(spec: Mixture, grid: Grid, W: Tensor, new: _New, put: Callable[[slice, Tensor], None]) -> Tensor:
    """What makes each new block `gain` times the size of the source block it stands beside, float64 [B].

    Args:
        spec: the gain.
        grid: of W.
        W: the source tensor, [O, I, ...].
        new: the new blocks.
        put: given some rows of all of them, before they are scaled, [B, rows, i, ...].
    """
    if not new.coefficients.any():
        return torch.zeros(len(new.places), dtype=torch.float64)
    norms = []
    for rows, mixtures in combined(grid.bank, new.coefficients, W.dtype):
        norms.append(_row_norms(mixtures))
        put(rows, mixtures)
    sizes = torch.linalg.vector_norm(torch.cat(norms, 1), dim=1)
    block_of_row, block_of_column = grid.rows.places()[0], grid.columns.places()[0]

    def size(row: int, column: int) -> Tensor:
        places = torch.nonzero(block_of_row == row).flatten(), torch.nonzero(block_of_column == column).flatten()
        norm: Tensor = torch.linalg.vector_norm(_row_norms(_part(W, *places)[None]), dim=1)
        return norm

    wanted = {beside: size(*beside) for beside in {(r.block, c.block) for r, c in new.places}}
    scales: Tensor = torch.cat([wanted[r.block, c.block] for r, c in new.places]) * spec.gain / sizes
    scales[sizes == 0] = 0.0
    return scales


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


def _row_norms(blocks: Tensor) -> Tensor:
    """Euclidean norm of each row of each block, float64 [B, o]."""
    rows = max(1, AT_ONCE // max(1, 2 * blocks[:, :1].numel()))  # twice: float64
    parts = (part.flatten(2).double() for part in blocks.split(rows, 1))
    return torch.cat([torch.linalg.vector_norm(part, dim=2) for part in parts], 1)


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
