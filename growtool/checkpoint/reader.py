"""Checkpoints that are not loaded: the header tells names, shapes and types, values are read on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.form import Form, coefficients_of
from growtool.checkpoint.hashing import hash_ahead, sha256_of
from growtool.checkpoint.header import parse_header
from growtool.checkpoint.shards import INDEX, starts
from growtool.checkpoint.tensors import Stored, TensorInfo, arithmetic_dtype, held_as, infos_of
from growtool.errors import format_names
from growtool.hub.repository import Origin
from growtool.library import ModelSpec
from growtool.library.layout import Conversion, Reading
from growtool.notebook import as_html

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
BEST, LAST = "best", "last"  # where a fine-tuning run keeps its checkpoints
MAPPED = 1 << 20  # bytes; below, reading is faster than what a map costs the system


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file and the model it belongs to; no weights are held.

    Attributes:
        path: the `.safetensors` file; of weights in several files their index.
        spec: the model the weights are for.
        stored: every tensor of the file by name.
        metadata: the header's own strings.
        config: the full `config.json` the spec was read from ({} where it came from elsewhere).
        form: how tensors are made of shared templates; None where the file holds them as they are.
        places: tensor -> its name in the file, where that is another; None for a count of batches that is not there.
        made: tensors that the library makes of those in the file: once it loads them, or each time one is read.
        changes: what it did to them, a phrase for each kind.
        files: tensor of the file -> the shard that holds it; empty where one file holds all.
        reading: how the library finds the model's tensors in the file, where names alone do not tell.
        origin: where the file comes from, if it was named; it may not have been fetched yet.
    """

    path: Path
    spec: ModelSpec
    stored: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    places: Mapping[str, str | None] = field(default_factory=dict)
    made: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    changes: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)
    reading: Reading | None = None
    origin: Origin | None = None

    def __repr__(self) -> str:
        form = "" if self.form is None else ", in template form"
        return f"Checkpoint({self.name!r}: {self.spec.architecture}, {len(self.stored)} tensors{form})"

    def _repr_html_(self) -> str:
        stored = self.stored.values()
        record = self.config.get("growtool")
        steps = record.get("lineage", []) if isinstance(record, Mapping) else []
        grown = steps[-1] if steps and isinstance(steps[-1], Mapping) else {}
        facts = {
            "architecture": self.spec.architecture,
            "arguments": ", ".join(f"{key}={value}" for key, value in self.spec.model_args.items()) or "none",
            "stored": f"{len(stored):,} tensors, {sum(info.numel for info in stored):,} numbers, "
            + ", ".join(sorted({info.dtype for info in stored})),
            **({"form": "templates and coefficients"} if self.form else {}),
            **{key: str(grown[key]) for key in ("source", "promise", "verified") if key in grown},
        }
        return as_html(f"Checkpoint {self.name}", facts)

    @cached_property
    def file(self) -> Path:
        """The weights on disk, downloaded where they are not there yet."""
        return self.origin.fetch() if self.origin else self.path

    def fetch(self) -> None:
        """Download the weights now rather than when the first of them is read, where they are not on disk yet."""
        _ = self.file

    @cached_property
    def _starts(self) -> dict[str, tuple[Path, int]]:
        """The file of each tensor, and where it begins there."""
        self.fetch()
        headers = {path: starts(parse_header(path)) for path in dict.fromkeys(self.files.values()) or [self.file]}
        return {
            name: (path, start)
            for path, found in headers.items()
            for name, start in found.items()
            if self.files.get(name, path) == path
        }

    @property
    def folder(self) -> Path | None:
        """The folder that is the checkpoint, with its config and whatever else lies there; None for a lone file."""
        return self.path.parent if self.path.name in (WEIGHTS, INDEX) else None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the model by name, templated ones as they are once their templates are combined."""
        return self.form.dense(self.stored) if self.form else self.stored

    def read(self, name: str) -> torch.Tensor:
        """The values of one of the model's tensors, in its type.

        A large one stands on the file's own pages, as `read_stored` says of `mapped`. A templated one takes memory for
        its grid of blocks.
        """
        if self.form is None or name not in self.form.tensors:
            return self.read_stored(name, mapped=True)
        from growtool.checkpoint.materialise import materialise

        templated, dtype = self.form.tensors[name], self.tensors[name].torch_dtype
        coefficients = self.read_stored(coefficients_of(name))
        exact = arithmetic_dtype(coefficients.dtype, dtype)
        whole = materialise(self.bank(templated.bank), coefficients, templated.rows, templated.columns, exact)
        return held_as(f"{self.name}: {name}", whole, dtype)

    def place_of(self, name: str) -> Stored | None:
        """Where the file holds one of the model's tensors; None for one that is made as it is read."""
        place = self.places.get(name, name)
        if place is None or name in self.made or (self.form is not None and name in self.form.tensors):
            return None
        return Stored(*self._starts[place], self.stored[name])

    def bank(self, name: str) -> StoredBank:
        """The templates of a bank, read one by one."""
        assert self.form is not None, "a dense checkpoint has no banks"
        return StoredBank(self, self.form.parts(name), self.form.block(name, self.stored))

    def read_stored(self, name: str, index: int | None = None, *, mapped: bool = False) -> torch.Tensor:
        """The values of one tensor of the file, or of its slice at `index` of the first dimension.

        Args:
            name: of the tensor.
            index: of the slice.
            mapped: whether a large one may stand on the pages of the file, which the system reads as they are needed
                and may drop at any time. Writing to it leaves the file as it is. Not for what is kept for long: whoever
                cuts the file short takes the pages away.
        """
        import torch

        if name in self.made:
            return self.made[name]
        info, place = self.stored[name], self.places.get(name, name)
        if place is None:
            return torch.zeros(info.shape, dtype=info.torch_dtype)
        path, offset = self._starts[place]
        if index is not None:
            info = TensorInfo(info.shape[1:], info.dtype)
            offset += index * info.nbytes
        aligned = offset % info.torch_dtype.itemsize == 0
        stored = Stored(path, offset, info)
        if not (mapped and aligned and info.nbytes >= MAPPED):
            return stored.read()
        return stored.mapped()

    def placed(self, places: Mapping[str, str | None]) -> Checkpoint:
        """The same with its tensors under other names: name -> the one in the file; None for a count of batches, 0."""
        counter = TensorInfo((), "I64")
        infos = {name: counter if place is None else self.stored[place] for name, place in places.items()}
        return replace(self, stored=infos, places=dict(places))

    def read_by(self, reading: Reading) -> Checkpoint:
        """The same as a library reads it; what it finds no use for stands for itself."""
        held = {part for conversion in reading.made.values() for part in conversion.parts}
        used = {*reading.places.values(), *reading.unused, *held}
        places = {**reading.places, **{name: name for name in self.stored if name not in used}}
        made = Converted(self, reading.made)
        infos = {**{name: self.stored[place] for name, place in places.items()}, **made.infos}
        left = (f"leaves out {format_names(reading.unused, 3)}",) if reading.unused else ()
        return replace(self, stored=infos, places=places, made=made, reading=reading, changes=left)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every tensor by name; the whole file in memory."""
        return {name: self.read(name).clone() for name in self.tensors}

    @property
    def name(self) -> str:
        """What to call the checkpoint in messages: the folder or the file the user named."""
        if self.origin:
            return self.origin.text
        return str(self.folder or self.path)

    @property
    def address(self) -> Path:
        """What opens it again: the file, or its name with the commit."""
        return Path(self.origin.pinned) if self.origin else self.path

    @property
    def label(self) -> str:
        """A short name without the path of this machine: that of the folder, or of the file without its ending.

        A run keeps all it has in folders of the same names, so its own goes before theirs.
        """
        if self.origin:
            return self.origin.label
        # links stay: a cache of the hub holds the files themselves under their hashes
        path = Path(os.path.abspath(self.path))  # noqa: PTH100
        if self.folder is None:
            return path.stem
        folder = path.parent
        return f"{folder.parent.name}-{folder.name}" if folder.name in (BEST, LAST) else folder.name

    def sha256(self) -> str:
        """Hex digest of the weights file; of several, of what `sha256sum` prints of them in order."""
        if not self.files:
            return sha256_of(self.file)
        self.fetch()
        lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(set(self.files.values()))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def hash_ahead(self) -> None:
        """Begin with what `sha256` will be asked for, where the weights are on disk already."""
        paths = sorted(set(self.files.values())) or [self.path]
        if all(path.exists() for path in paths):
            hash_ahead(paths)


class Converted(Mapping[str, "torch.Tensor"]):
    """Tensors that are made of others of a file, each time one is asked for.

    Attributes:
        infos: shape and type of each.
    """

    def __init__(self, checkpoint: Checkpoint, conversions: Mapping[str, Conversion]) -> None:
        self._checkpoint, self._conversions = checkpoint, conversions
        self.infos = dict(self._infos())

    def _infos(self) -> Iterator[tuple[str, TensorInfo]]:
        for name, conversion in self._conversions.items():
            empty = {part: self._checkpoint.stored[part].empty() for part in conversion.parts}
            yield from infos_of({name: conversion.convert(empty)[name]}).items()

    def __getitem__(self, name: str) -> torch.Tensor:
        conversion = self._conversions[name]
        return conversion.convert({part: self._checkpoint.read_stored(part) for part in conversion.parts})[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._conversions)

    def __len__(self) -> int:
        return len(self._conversions)


@dataclass(frozen=True)
class InMemory(Checkpoint):
    """A checkpoint that was never written: its tensors are `state`."""

    state: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        """The values of one of the model's tensors, in its type."""
        return self.state[name]

    def place_of(self, name: str) -> None:
        """No file holds a tensor."""


@dataclass(frozen=True, slots=True)
class StoredBank:
    """Templates in a file: one tensor [T, o, i, ...], or the factors [T, o] and [T, i, ...] of rank-one templates."""

    checkpoint: Checkpoint
    parts: tuple[str, ...]
    block: tuple[int, ...]

    @property
    def count(self) -> int:
        """T, the number of templates."""
        return self.checkpoint.stored[self.parts[0]].shape[0]

    def template(self, t: int, rows: slice = slice(None)) -> torch.Tensor:
        """Template t, [o, i, ...], or some of its rows."""
        from growtool.checkpoint.materialise import template_of

        parts = [self.checkpoint.read_stored(part, t, mapped=True) for part in self.parts]
        return template_of(parts, self.block, rows)
