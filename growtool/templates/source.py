"""The templates of a layer as operators see them: stored in the checkpoint, or cut from its dense layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint, Form, Layout, Templated, TensorInfo, coefficients_of
from growtool.checkpoint.materialise import WHOLE, Bank
from growtool.templates.grouping import like_tensors, stage_of
from growtool.trace import Axis, ChannelGroup, Trace
from growtool.trace.axes import axis_size, segment_size

Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor as a grid of blocks, each a combination of templates.

    Attributes:
        coefficients: [k_out, k_in, T].
        bank: the templates.
        rows, columns: where the positions of the tensor's first two dimensions lie in the grid.
    """

    coefficients: Tensor
    bank: Bank
    rows: Layout
    columns: Layout


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of a dense tensor, by its row and column in the tensor's grid."""

    tensor: str
    row: int
    column: int


@dataclass(frozen=True)
class ExactForm:
    """A dense checkpoint seen as templates: its layers, or blocks of them, with coefficients of zero and one.

    Attributes:
        form: the map of the banks and their tensors, as a template checkpoint carries it.
        pieces: bank -> the block of a tensor that each of its templates is.
        blocks: bank -> the shape of its templates.
    """

    form: Form
    pieces: Mapping[str, tuple[Piece, ...]]
    blocks: Mapping[str, tuple[int, ...]]

    def coefficients(self, name: str) -> Tensor:
        """Return the coefficients of a tensor, float32 [k_out, k_in, T]: one-hot, as each block is a template."""
        templated = self.form.tensors[name]
        pieces = self.pieces[templated.bank]
        C_ooT = torch.zeros(templated.rows.blocks, templated.columns.blocks, len(pieces))
        for t, piece in enumerate(pieces):
            if piece.tensor == name:
                C_ooT[piece.row, piece.column, t] = 1.0
        return C_ooT

    def info(self, name: str, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
        """Return the shape and type of the tensor that holds a bank, from those of the checkpoint's tensors."""
        pieces = self.pieces[name]
        return TensorInfo((len(pieces), *self.blocks[name]), tensors[pieces[0].tensor].dtype)

    def bank(self, name: str, read: Read) -> CutBank:
        """Return the templates of a bank, which are cut from tensors as these are read."""
        return CutBank(self.pieces[name], self.blocks[name], self.form.tensors, read)

    def stacked(self, name: str, read: Read) -> Tensor:
        """Return all templates of a bank, [T, o, i, ...]."""
        cut = self.bank(name, read)
        return torch.stack([cut.template(t) for t in range(cut.count)])


class CutBank:
    """Templates that are blocks of dense tensors; the tensor that was read last is kept for its other blocks."""

    def __init__(
        self, pieces: tuple[Piece, ...], block: tuple[int, ...], layouts: Mapping[str, Templated], read: Read
    ) -> None:
        self.pieces, self.block, self._layouts, self._read = pieces, block, layouts, read
        self._latest: tuple[str, Tensor] | None = None

    @property
    def count(self) -> int:
        """T, the number of templates."""
        return len(self.pieces)

    def template(self, t: int, rows: slice = WHOLE) -> Tensor:
        """Return template t, [o, i, ...], or some of its rows."""
        piece = self.pieces[t]
        if self._latest is None or self._latest[0] != piece.tensor:
            self._latest = piece.tensor, self._read(piece.tensor)
        W = self._latest[1]
        layout = self._layouts[piece.tensor]
        if layout.rows.blocks > 1:
            W = W.index_select(0, torch.nonzero(layout.rows.places()[0] == piece.row).flatten()[rows])
        else:
            W = W[rows]
        if layout.columns.blocks > 1:
            W = W.index_select(1, torch.nonzero(layout.columns.places()[0] == piece.column).flatten())
        return W


def exact_form(
    weights: Mapping[str, TensorInfo],
    trace: Trace,
    *,
    parts: int = 1,
    kind: str = "raw",
    taken: Collection[str] = (),
) -> ExactForm:
    """Return a dense checkpoint as templates: the layers of one shape in a stage share a bank, or their blocks do.

    A layer that has no other of its shape in its stage stays dense, unless it is cut into blocks.

    Args:
        weights: the tensors that may have templates, from `templatable`.
        trace: the model's trace.
        parts: the number of parts that the channels on either side of a layer are cut into.
        kind: the kind of the banks.
        taken: names that no bank may have.
    """
    templated: dict[str, Templated] = {}
    pieces: dict[str, tuple[Piece, ...]] = {}
    blocks: dict[str, tuple[int, ...]] = {}
    for name, group in like_tensors(weights).items():
        if name != group[0]:  # the group is the same for all of its members
            continue
        layouts = {member: tuple(parted(axis, parts) for axis in trace.tensors[member][:2]) for member in group}
        # Layers of one shape may be cut differently: channels of some may not grow, and stay whole.
        by_grid: dict[tuple[int, int], list[str]] = {}
        for member, (rows, columns) in layouts.items():
            by_grid.setdefault((rows.blocks, columns.blocks), []).append(member)
        for (k_out, k_in), members in by_grid.items():
            if len(members) * k_out * k_in == 1:
                continue
            shape = weights[name].shape
            block = (shape[0] // k_out, shape[1] // k_in, *shape[2:])
            bank = bank_name(name, block, {*pieces, *taken})
            blocks[bank] = block
            pieces[bank] = tuple(Piece(m, i, j) for m in members for i in range(k_out) for j in range(k_in))
            templated |= {m: Templated(bank, *layouts[m]) for m in members}
    return ExactForm(Form(dict.fromkeys(pieces, kind), templated), pieces, blocks)


def bank_name(member: str, block: tuple[int, ...], taken: Collection[str]) -> str:
    """Return a free name for a bank: the stage of a member and the shape of a template, as in `layer2_64x64x3x3`."""
    # A dot would separate modules where the bank is one, in a model in template form.
    stem = f"{stage_of(member).replace('.', '_')}_{'x'.join(map(str, block))}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    return name


class Templates:
    """The grids of a checkpoint's tensors: the stored ones, and for dense tensors those of an exact form."""

    def __init__(self, checkpoint: Checkpoint, exact: ExactForm) -> None:
        self.checkpoint, self.exact = checkpoint, exact
        stored = checkpoint.form or Form({}, {})
        self.form = Form({**exact.form.banks, **stored.banks}, {**exact.form.tensors, **stored.tensors})

    def grid(self, name: str) -> Grid | None:
        """Return the grid of a tensor; None if it has none."""
        templated = self.form.tensors.get(name)
        if templated is None:
            return None
        if templated.bank in self.exact.pieces:
            C_ooT = self.exact.coefficients(name)
        else:
            C_ooT = self.checkpoint.read_stored(coefficients_of(name))
        return Grid(C_ooT, self.bank(templated.bank), templated.rows, templated.columns)

    def bank(self, name: str) -> Bank:
        """Return the templates of a bank."""
        is_exact = name in self.exact.pieces
        return self.exact.bank(name, self.checkpoint.read) if is_exact else self.checkpoint.bank(name)

    def part_infos(self, bank: str) -> dict[str, TensorInfo]:
        """Return the shape and type of the tensors that hold a bank."""
        if bank in self.exact.pieces:  # held by a single tensor
            return {part: self.exact.info(bank, self.checkpoint.tensors) for part in self.form.parts(bank)}
        return {part: self.checkpoint.stored[part] for part in self.form.parts(bank)}

    def read_part(self, bank: str, part: str) -> Tensor:
        """Return one of the tensors that hold a bank."""
        if bank in self.exact.pieces:  # held by a single tensor
            return self.exact.stacked(bank, self.checkpoint.read)
        return self.checkpoint.read_stored(part)


def parted(axis: Axis, parts: int) -> Layout:
    """Return the layout of an axis with the channels of each of its segments cut into `parts` neighbouring parts.

    A packed qkv of heads is cut by heads, each of q, k and v alike, so that block b holds part b of all three. An axis
    whose channels may not grow, or do not divide, stays whole.
    """
    places: list[tuple[int, int]] = []
    filled = [0] * parts  # positions that each block holds so far
    for segment in axis:
        blocks = _segment_blocks(segment, parts)
        if blocks is None:
            return Layout.whole(axis_size(axis))
        for block in blocks:
            places.append((block, filled[block]))
            filled[block] += 1
    return Layout.of(places)


def _segment_blocks(segment: tuple[ChannelGroup | Axis, ...], parts: int) -> list[int] | None:
    """Return the block of each position of a segment, by the outermost channels that may grow; None if that fails."""
    for place, factor in enumerate(segment):
        if isinstance(factor, ChannelGroup) and not factor.fixed:
            if factor.size % parts:
                return None
            outer, inner = segment_size(segment[:place]), segment_size(segment[place + 1 :])
            each = factor.size // parts
            return [channel // each for _ in range(outer) for channel in range(factor.size) for _ in range(inner)]
    return None
