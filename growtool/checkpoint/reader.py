"""Checkpoints on disk. The header tells names, shapes and types; values are read one tensor at a time, on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.documents import WEIGHTS
from growtool.checkpoint.form import Form, coefficients_of
from growtool.checkpoint.hashing import hash_ahead, sha256_of
from growtool.checkpoint.header import read_header
from growtool.checkpoint.shards import INDEX
from growtool.checkpoint.tensors import Stored, TensorInfo, arithmetic_dtype, in_type, infos_of
from growtool.errors import format_names
from growtool.hub.repository import Origin
from growtool.library import ModelSpec
from growtool.library.layout import Conversion, Reading
from growtool.notebook import as_html

if TYPE_CHECKING:
    import torch

BEST, LAST = "best", "last"  # folders of a fine-tuning run that hold its checkpoints
MAPPED = 1 << 20  # bytes of a tensor; smaller ones are read faster than the system sets up a map


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file and the model it belongs to, without the weights.

    Most tensors stand in the file under the model's names. `places` leads to those that the file calls otherwise, and
    `made` makes those that are computed from tensors of the file.

    Attributes:
        path: the `.safetensors` file; the index if the weights are in several files.
        spec: the model the weights are for.
        stored: shape and type of every tensor, by the model's names if `matched` has found these, else by the file's.
            In template form, the coefficients and templates in place of the tensors they make.
        metadata: the strings of the header.
        config: the whole `config.json` the spec was read from; {} if the spec came from elsewhere.
        form: how tensors are made of shared templates; None if the file holds the tensors as they are.
        places: name in `stored` -> name in the file, where they differ.
        made: name in `stored` -> a function that makes the tensor, for those that the file does not hold as they are.
        changes: what the library did to the tensors, a phrase for each kind of change.
        files: tensor of the file -> the shard that holds it; empty if one file holds all.
        reading: how the library finds the model's tensors in the file, if names alone do not tell.
        origin: where the file comes from, if the user gave a name instead of a path; it may not be downloaded yet.
    """

    path: Path
    spec: ModelSpec
    stored: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict, repr=False)
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
        """The path of the weights on disk; the first use downloads them if they are not there yet."""
        return self.origin.fetch() if self.origin else self.path

    def fetch(self) -> None:
        """Download the weights now, if they are not on disk yet, rather than when the first tensor is read."""
        _ = self.file

    @cached_property
    def _starts(self) -> dict[str, tuple[Path, int]]:
        """Tensor of a file -> that file, and the first byte of the tensor there."""
        self.fetch()
        places: dict[str, tuple[Path, int]] = {}
        for path in dict.fromkeys(self.files.values()) or [self.file]:
            for name, start in read_header(path).starts.items():
                if self.files.get(name, path) == path:  # shards may hold a name twice; the index says which counts
                    places[name] = path, start
        return places

    @property
    def folder(self) -> Path | None:
        """The folder of the checkpoint, which holds its config and other files too; None for a lone file."""
        return self.path.parent if self.path.name in (WEIGHTS, INDEX) else None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and type of every tensor of the model; of templated tensors, as they are once combined."""
        return self.form.dense(self.stored) if self.form else self.stored

    def read(self, name: str) -> torch.Tensor:
        """Return the values of one of the model's tensors, in its type.

        A large tensor stands on the pages of the file, as `mapped` of `read_stored` tells. A templated tensor takes
        memory for its grid of blocks.

        Raises:
            OSError: the file cannot be read, or became shorter than it was.
            PlanError: a combination of templates is beyond what the tensor's type can hold.
        """
        if self.form is None or name not in self.form.tensors:
            return self.read_stored(name, mapped=True)
        from growtool.checkpoint.materialise import materialise

        templated, dtype = self.form.tensors[name], self.tensors[name].torch_dtype
        C_ooT = self.read_stored(coefficients_of(name))
        exact = arithmetic_dtype(C_ooT.dtype, dtype)
        combined = materialise(self.bank(templated.bank), C_ooT, templated.rows, templated.columns, exact)
        return in_type(f"{self.name}: {name}", combined, dtype)

    def place_of(self, name: str) -> Stored | None:
        """Return where the file holds one of the model's tensors; None for a tensor that is computed as it is read."""
        if name in self.made or (self.form is not None and name in self.form.tensors):
            return None
        return Stored(*self._starts[self.places.get(name, name)], self.stored[name])

    def bank(self, name: str) -> StoredBank:
        """Return the templates of a bank, which are read one by one."""
        assert self.form is not None, "a dense checkpoint has no banks"
        return StoredBank(self, self.form.parts(name), self.form.block(name, self.stored))

    def read_stored(self, name: str, index: int | None = None, *, mapped: bool = False) -> torch.Tensor:
        """Return the values of one tensor in `stored`, or of one slice of it.

        Args:
            name: the tensor.
            index: position along the first dimension, for a slice; None for the whole tensor.
            mapped: whether a large tensor may stand on the pages of the file, as `Stored.mapped` returns it. Not for
                tensors that are kept for long: touching the pages of a file that became shorter ends the process.

        Raises:
            OSError: the file cannot be read, or became shorter than it was.
        """
        if name in self.made:
            return self.made[name]()
        info = self.stored[name]
        path, offset = self._starts[self.places.get(name, name)]
        if index is not None:
            info = TensorInfo(info.shape[1:], info.dtype)
            offset += index * info.nbytes
        # Libraries pad the header to 8 bytes, but the format does not ask for it.
        aligned = offset % info.torch_dtype.itemsize == 0
        stored = Stored(path, offset, info)
        return stored.mapped() if mapped and aligned and info.nbytes >= MAPPED else stored.read()

    def read_by(self, reading: Reading) -> Checkpoint:
        """Return the checkpoint with the model's tensors in place of the file's; unknown ones keep their names."""
        converted = {part for conversion in reading.made.values() for part in conversion.parts}
        used = {*reading.places.values(), *reading.unused, *converted}
        places = {**reading.places, **{name: name for name in self.stored if name not in used}}

        def empty(part: str) -> torch.Tensor:
            return self.stored[part].empty()

        # On meta tensors a conversion tells shapes and types without reading a number.
        on_meta = {name: conversion.of(empty)[name] for name, conversion in reading.made.items()}
        infos = {**{name: self.stored[place] for name, place in places.items()}, **infos_of(on_meta)}
        made = {name: partial(self._converted, name, conversion) for name, conversion in reading.made.items()}
        changes = (f"leaves out {format_names(reading.unused, 3)}",) if reading.unused else ()
        return replace(self, stored=infos, places=places, made=made, changes=changes)

    def _converted(self, name: str, conversion: Conversion) -> torch.Tensor:
        return conversion.of(self.read_stored)[name]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return every tensor of the model by name, all in memory."""
        # The clones outlive the file: `read` may return pages of it.
        return {name: self.read(name).clone() for name in self.tensors}

    @property
    def name(self) -> str:
        """The checkpoint's name in messages: the folder, file or name that the user gave."""
        if self.origin:
            return self.origin.text
        return str(self.folder or self.path)

    @property
    def address(self) -> Path:
        """What opens the checkpoint again: the file, or its name in the hub with the commit."""
        return Path(self.origin.pinned) if self.origin else self.path

    @property
    def label(self) -> str:
        """A short name without the path on this machine: the folder's, or the file's without its ending.

        Every run calls its checkpoints `best` and `last`, so the name of the run goes before these.
        """
        if self.origin:
            return self.origin.label
        # Unlike Path.resolve, abspath follows no links: the hub's cache links names to files called by their hashes.
        path = Path(os.path.abspath(self.path))  # noqa: PTH100
        if self.folder is None:
            return path.stem
        folder = path.parent
        return f"{folder.parent.name}-{folder.name}" if folder.name in (BEST, LAST) else folder.name

    def sha256(self) -> str:
        """Return the SHA-256 of the weights file in hex; of several files, that of what `sha256sum` prints of them."""
        if not self.files:
            return sha256_of(self.file)
        self.fetch()
        lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(set(self.files.values()))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def hash_ahead(self) -> None:
        """Begin to compute `sha256` in the background, if the weights are on disk already."""
        paths = sorted(set(self.files.values())) or [self.path]
        if all(path.exists() for path in paths):
            hash_ahead(paths)


@dataclass(frozen=True)
class InMemory(Checkpoint):
    """A checkpoint that no file holds: its tensors are `state`."""

    state: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        """Return one of the model's tensors."""
        return self.state[name]

    def place_of(self, name: str) -> None:
        """Return None: no file holds the tensor."""


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
        """Return template t, [o, i, ...], or some of its rows."""
        from growtool.checkpoint.materialise import template_of

        parts = [self.checkpoint.read_stored(part, t, mapped=True) for part in self.parts]
        return template_of(parts, self.block, rows)
