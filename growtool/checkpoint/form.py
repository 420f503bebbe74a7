"""The template form: tensors as linear combinations of templates that several of them share.

A templated tensor NAME is a grid of blocks, each a combination of T templates. It is stored as `NAME.coefficients`
[k_out, k_in, T]. The templates are a bank, `banks.BANK.templates` [T, o, i, ...], or, for rank-one templates,
`banks.BANK.left` [T, o] and `banks.BANK.right` [T, i, ...]. Which bank a tensor is made of, and where the positions of
its first two dimensions stand in the grid, is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.documents import UNLIKE
from growtool.checkpoint.tensors import TensorInfo
from growtool.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FORM_KEY = "growtool.templates"
VERSION = 1
BANK_KINDS = ("raw", "svd", "sub_block", "low_rank", "trained")
FACTORED = "low_rank"

Run = tuple[int, int, int]  # block, first position within it, number of positions


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the positions of an axis lie in the blocks of a grid: runs of neighbouring positions, in the axis's order.

    k whole blocks of n are `(0, 0, n), (1, 0, n), ...`; a last run that is shorter crops the grid. The rows of a packed
    qkv whose heads were doubled alternate: q of block 0, q of block 1, k of block 0, ...
    """

    runs: tuple[Run, ...]

    @classmethod
    def whole(cls, size: int) -> Layout:
        """Return the layout of an axis that is one block."""
        return cls(((0, 0, size),))

    @classmethod
    def consecutive(cls, size: int, block: int) -> Layout:
        """Return the layout of an axis of blocks one after the other, the last one cropped so that `size` remain."""
        return cls(tuple((k, 0, min(block, size - k * block)) for k in range(-(-size // block))))

    @classmethod
    def of(cls, places: Iterable[tuple[int, int]]) -> Layout:
        """Return the layout with these (block, place in the block), one for each position of the axis."""
        runs: list[Run] = []
        for block, position in places:
            last, start, length = runs[-1] if runs else (-1, 0, 0)
            if last == block and start + length == position:
                runs[-1] = (block, start, length + 1)
            else:
                runs.append((block, position, 1))
        return cls(tuple(runs))

    @property
    def size(self) -> int:
        """Number of positions of the axis."""
        return sum(length for _, _, length in self.runs)

    @property
    def blocks(self) -> int:
        """Number of blocks along the axis."""
        return 1 + max(block for block, _, _ in self.runs)

    def fits(self, blocks: int, size: int) -> bool:
        """Return whether every position lies in one of `blocks` blocks of `size`."""
        return bool(self.runs) and all(
            0 <= block < blocks and start >= 0 and length >= 1 and start + length <= size
            for block, start, length in self.runs
        )

    def places(self) -> tuple[Tensor, Tensor]:
        """Return the block of every position and its place within the block, int64 [size] each."""
        import torch

        block = torch.cat([torch.full((length,), b) for b, _, length in self.runs])
        return block, torch.cat([torch.arange(start, start + length) for _, start, length in self.runs])


@dataclass(frozen=True, slots=True)
class Templated:
    """A tensor that is a grid of combinations of templates.

    Attributes:
        bank: the bank of the templates.
        rows, columns: where the positions of the tensor's first two dimensions lie in the grid.
    """

    bank: str
    rows: Layout
    columns: Layout


@dataclass(frozen=True, slots=True)
class Form:
    """The map of a file in template form: its banks, and the tensors made of them.

    Attributes:
        banks: bank -> how its templates were found, one of `BANK_KINDS`.
        tensors: the templated tensors, by the model's names.
    """

    banks: Mapping[str, str]
    tensors: Mapping[str, Templated]

    def metadata(self) -> dict[str, str]:
        """Return the form as an entry for a file's metadata."""
        content = {
            "version": VERSION,
            "banks": {name: {"kind": kind} for name, kind in self.banks.items()},
            "tensors": {
                name: {"bank": t.bank, "rows": t.rows.runs, "columns": t.columns.runs}
                for name, t in self.tensors.items()
            },
        }
        return {FORM_KEY: json.dumps(content, separators=(",", ":"))}

    def members(self, bank: str) -> list[str]:
        """Return the names of the tensors that are made of a bank's templates."""
        return [name for name, templated in self.tensors.items() if templated.bank == bank]

    def parts(self, bank: str) -> tuple[str, ...]:
        """Return the names of the stored tensors that hold a bank: its templates, or their two factors."""
        ends = ("left", "right") if self.banks[bank] == FACTORED else ("templates",)
        return tuple(f"banks.{bank}.{end}" for end in ends)

    def block(self, bank: str, stored: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        """Return the shape of a bank's templates, [o, i, ...]."""
        first, *second = (stored[part].shape[1:] for part in self.parts(bank))
        return first + (second[0] if second else ())

    def dense(self, stored: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """Return the shape and type of every tensor of the model, as they are once the templates are combined."""
        parts = {part for bank in self.banks for part in self.parts(bank)} | set(map(coefficients_of, self.tensors))
        infos = {name: info for name, info in stored.items() if name not in parts}
        for name, templated in self.tensors.items():
            shape = (templated.rows.size, templated.columns.size, *self.block(templated.bank, stored)[2:])
            infos[name] = TensorInfo(shape, stored[self.parts(templated.bank)[0]].dtype)
        return infos


def coefficients_of(name: str) -> str:
    """Return the name of the stored tensor that holds a templated tensor's coefficients."""
    return f"{name}.coefficients"


def find_form(path: Path, stored: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> Form | None:
    """Return the form that a file's metadata tells; None for a dense file.

    Raises:
        CheckpointError: the map is damaged, of another version, or does not fit the stored tensors.
    """
    if FORM_KEY not in metadata:
        return None
    where = f"{path}: metadata {FORM_KEY}"
    try:
        content = json.loads(metadata[FORM_KEY])
        version = content["version"]
        if version == VERSION:  # a map of another version need not have these fields
            form = _parsed(content)
    except (*UNLIKE, RecursionError) as error:
        raise CheckpointError(
            f"{where}: not a map of templates ({type(error).__name__}: {error}); restore the file"
        ) from error
    if version != VERSION:
        raise CheckpointError(f"{where}: found version {version!r}, expected {VERSION}; update growtool")
    problems = [f"{where}: {problem}; restore the file" for problem in _problems(form, stored)]
    if problems:
        raise CheckpointError(problems)
    return form


def _parsed(content: Mapping[str, Any]) -> Form:
    """Return the form in a parsed document; raise whatever a document of other fields leads to."""

    def layout(runs: list[list[int]]) -> Layout:
        return Layout(tuple((int(b), int(s), int(n)) for b, s, n in runs))

    return Form(
        {str(name): str(bank["kind"]) for name, bank in content["banks"].items()},
        {
            str(name): Templated(str(t["bank"]), layout(t["rows"]), layout(t["columns"]))
            for name, t in content["tensors"].items()
        },
    )


def _problems(form: Form, stored: Mapping[str, TensorInfo]) -> list[str]:
    """Return a line for each thing in which a form does not fit the stored tensors."""
    problems, sound = list[str](), set[str]()
    for bank in form.banks:
        if amiss := _amiss(bank, form, stored):
            problems += amiss
        else:
            sound.add(bank)
    for name, templated in form.tensors.items():
        if templated.bank not in form.banks:
            problems.append(f"{name}: found bank {templated.bank!r}, expected one of the file's banks")
        elif templated.bank in sound:
            problems += _misfits(name, templated, form, stored)
    return problems


def _amiss(bank: str, form: Form, stored: Mapping[str, TensorInfo]) -> list[str]:
    """Return a line for each thing that is wrong with a bank."""
    kind = form.banks[bank]
    if kind not in BANK_KINDS:
        return [f"bank {bank}: found kind {kind!r}, expected one of {', '.join(BANK_KINDS)}"]
    if lacking := [part for part in form.parts(bank) if part not in stored]:
        return [f"bank {bank}: {part} is not in the file" for part in lacking]
    if len({stored[part].shape[:1] for part in form.parts(bank)}) > 1:
        return [f"bank {bank}: its parts hold different numbers of templates"]
    if len(form.block(bank, stored)) < 2:
        return [f"bank {bank}: found templates of {list(form.block(bank, stored))}, expected matrices"]
    return []


def _misfits(name: str, templated: Templated, form: Form, stored: Mapping[str, TensorInfo]) -> list[str]:
    """Return a line for each thing in which a templated tensor does not fit its bank, which is sound."""
    if name in stored:
        return [f"{name}: stored dense and as coefficients too, expected one of them"]
    if coefficients_of(name) not in stored:
        return [f"{name}: {coefficients_of(name)} is not in the file"]
    shape = stored[coefficients_of(name)].shape
    templates = stored[form.parts(templated.bank)[0]].shape[0]
    if len(shape) != 3 or shape[2] != templates:
        return [f"{coefficients_of(name)}: found {list(shape)}, expected [rows, columns, {templates}]"]
    block = form.block(templated.bank, stored)
    sides = zip((templated.rows, templated.columns), shape, block, strict=False)
    return [
        f"{name}: positions outside of the {blocks} blocks of {size} along dimension {dim}"
        for dim, (layout, blocks, size) in enumerate(sides)
        if not layout.fits(blocks, size)
    ]
