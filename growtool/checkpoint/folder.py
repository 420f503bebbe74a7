"""Whole outputs: a folder of weights, config and documents, or one file that carries its config in its metadata.

An output is put together beside its final place and takes its name once everything in it is on disk. A failure at any
point leaves what was there before, and nothing else.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.beside import OWN_FILES, matches
from growtool.checkpoint.documents import CONFIG, SPEC_KEY, WEIGHTS
from growtool.checkpoint.opening import open_checkpoint
from growtool.checkpoint.shards import INDEX, SHARDS, write_shards
from growtool.checkpoint.staging import clear_leftovers, current_umask, staging, sync_folder, take_place, write_text
from growtool.checkpoint.tensors import Stored, TensorInfo, infos_of
from growtool.checkpoint.writer import file_order, write_safetensors
from growtool.errors import PlanError, format_names
from growtool.library import libraries, library_of
from growtool.library.layout import Writing

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from torch import nn

    from growtool.checkpoint.reader import Checkpoint
    from growtool.library import ModelSpec

Produce = Callable[[str], "torch.Tensor"] | Iterator["torch.Tensor | Stored"]
Documents = Mapping[str, str] | Callable[[Path], Mapping[str, str]]


def is_single_file(out: Path) -> bool:
    """Return whether `out` names one `.safetensors` file rather than a folder."""
    return out.suffix == ".safetensors"


def refuse_existing(out: Path, *, force: bool) -> None:
    """Check that an output may be written to `out`; raise PlanError if not. To be asked before any work is done.

    Raises:
        PlanError: `out` exists and `force` is not set, or it is what `force` must not replace: a folder that holds
            anything but the files of a checkpoint, a file where a folder would be written, or the other way round.
    """
    # First: an output that had stepped aside for a new one, in a `--force` run that was killed, is to be there again.
    if (place := out.resolve()).parent.is_dir():
        clear_leftovers(place.parent, place.name)
    if not out.exists():
        return
    kind, found = ("file", "folder") if is_single_file(out) else ("folder", "file")
    if out.is_dir() == is_single_file(out):
        raise PlanError(f"{out}: found a {found}, expected to write a {kind} there; choose another output")
    if not force:
        raise PlanError(f"{out}: the output exists; choose another name, or replace it with --force")
    if out.is_dir() and (foreign := sorted(_foreign(out))):
        raise PlanError(
            f"{out}: found {format_names(foreign, 4)}, expected nothing but the files of a checkpoint "
            f"({', '.join(sorted(OWN_FILES))}); --force does not remove anything else, choose another output"
        )


def _foreign(out: Path) -> Iterator[str]:
    """Yield the names of what is in a folder and belongs to no checkpoint."""
    known = [INDEX, SHARDS, *(pattern for library in libraries() for pattern in library.beside)]
    folders = {pattern.partition("/")[0] for pattern in known if "/" in pattern}
    for entry in out.iterdir():
        for path in entry.iterdir() if entry.is_dir() and entry.name in folders else (entry,):
            name = path.relative_to(out).as_posix()
            if not path.is_file() or not (name in OWN_FILES or matches(name, known)):
                yield name


def spare_source(out: Path, source: Checkpoint) -> None:
    """Check that writing `out` does not replace the checkpoint it is made from; raise PlanError if it would.

    Raises:
        PlanError: `out` is the checkpoint or a folder around it, by its own name or by where its links lead.
    """
    target = out.resolve()
    # The file may be a link, for example into the hub's cache: neither the link nor its target may be replaced.
    for path in (source.path.parent.resolve() / source.path.name, source.path.resolve()):
        if target in (path, *path.parents):
            raise PlanError(f"{out}: holds the checkpoint itself, expected another place; choose another output")


def write_folder(
    out: Path,
    spec: ModelSpec,
    tensors: Mapping[str, TensorInfo],
    produce: Produce,
    *,
    model: nn.Module,
    documents: Documents,
    metadata: Mapping[str, str],
    writing: Writing | None = None,
    limit: str | None = None,
    beside: Mapping[str, Path] = MappingProxyType({}),
    force: bool = False,
) -> None:
    """Write the folder `out`: weights, `config.json` and documents; all of it or nothing.

    Args:
        out: the folder to appear; missing parents are created.
        spec: the model the weights belong to.
        tensors: shape and type of every tensor of the model, or of its template form.
        produce: as in `write_safetensors`.
        model: a model of the spec, with or without weights; its library may note more of it in `config.json`.
        documents: text by file name. A callable gets the hidden folder, in which weights and config are complete, and
            returns the documents; if it raises, `out` does not appear.
        metadata: strings for the weights file; `format: pt` is added.
        writing: how the tensors are named and converted for the file; None writes them as they are.
        limit: most bytes of a file, such as `5GB`; above it shards with an index are written. None writes one file.
        beside: files to copy into the folder, by their names there.
        force: whether to replace an older output.

    Raises:
        PlanError: `out` may not be written, as in `refuse_existing`.
        OSError: the disk is full or the place cannot be written.
    """
    refuse_existing(out, force=force)
    with staging(out) as folder:
        _write_weights(folder / WEIGHTS, tensors, produce, {"format": "pt", **metadata}, writing, limit)
        for name, path in beside.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)
        write_text(folder / CONFIG, json_text(library_of(spec).config(spec, model)))
        # Documents may replace the config: what a proof of the written weights found goes into it.
        for name, text in (documents(folder) if callable(documents) else documents).items():
            write_text(folder / name, text)
        folder.chmod(0o777 & ~current_umask())  # mkdtemp lets the owner alone in
        sync_folder(folder)
        take_place(folder, out.resolve())


def write_file(
    out: Path,
    spec: ModelSpec,
    tensors: Mapping[str, TensorInfo],
    produce: Produce,
    *,
    model: nn.Module,
    metadata: Mapping[str, str],
    writing: Writing | None = None,
    check: Callable[[Path], object] | None = None,
    force: bool = False,
) -> None:
    """Write the single file `out`, which carries its `config.json` in its metadata.

    Args:
        out: the `.safetensors` file to appear.
        check: called with the complete file before it takes its name; if it raises, `out` does not appear.

    The other arguments and the errors are those of `write_folder`.
    """
    refuse_existing(out, force=force)
    config = json.dumps(library_of(spec).config(spec, model), ensure_ascii=False)
    with staging(out) as folder:
        staged = folder / out.name
        _write_weights(staged, tensors, produce, {"format": "pt", SPEC_KEY: config, **metadata}, writing)
        if check is not None:
            check(staged)
        staged.replace(out.resolve())
        sync_folder(out.resolve().parent)


def _write_weights(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Produce,
    metadata: Mapping[str, str],
    writing: Writing | None,
    limit: str | None = None,
) -> None:
    """Write tensors of the model as the file is to hold them: renamed and converted by `writing`, cut by `limit`."""
    if writing is None and limit is None:
        write_safetensors(path, tensors, produce, metadata)
        return
    order = file_order(tensors)
    made = (produce(name) if callable(produce) else next(produce) for name in order)
    writing = writing or Writing({name: name for name in order})
    # The header comes first, so names and shapes are found on meta tensors before any real one is made.
    empty = (tensors[name].empty() for name in order)
    infos = infos_of(dict(_in_file(order, empty, writing)))
    stream = map(itemgetter(1), _in_file(order, made, writing))  # keeps no tensor, unlike a generator
    if limit is None:
        write_safetensors(path, infos, stream, metadata, order=list(infos))
    else:
        write_shards(path.parent, infos, stream, metadata, limit)


def _in_file(
    names: Iterable[str], tensors: Iterator[torch.Tensor | Stored], writing: Writing
) -> Iterator[tuple[str, torch.Tensor | Stored]]:
    """Yield the tensors of the file by name, as those of the model come; hold only those that wait for others."""
    waiting = {part: conversion for conversion in writing.conversions for part in conversion.parts}
    held: dict[str, torch.Tensor] = {}
    for name in names:  # `zip` would keep its latest tuple, and so a tensor in memory, until the next has been made
        tensor = next(tensors)
        if name in writing.names:
            yield writing.names[name], tensor
        elif name in waiting:
            held[name] = tensor.read() if isinstance(tensor, Stored) else tensor
            conversion = waiting[name]
            if held.keys() >= set(conversion.parts):
                made = conversion.of(held.pop)
                yield from ((result, made[result]) for result in conversion.results)
        del tensor  # frees its memory before the iterator makes the next one


def loading_line(path: Path) -> str:
    """Return the line of Python that loads a checkpoint; for template form the command that makes it dense first.

    Args:
        path: a folder or a single file.

    Raises:
        CheckpointError: the checkpoint cannot be opened.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.form is not None:
        return f"growtool export {shlex.quote(str(path))} -o DENSE"
    return library_of(checkpoint.spec).loading_line(path, checkpoint.spec)


def publishing_line(path: Path) -> str:
    """Return the command that uploads a folder, or a single file as the `model.safetensors` of a repository."""
    named = path.resolve()  # `.` has no name
    if is_single_file(path):
        return shlex.join(["hf", "upload", f"YOUR-NAME/{named.stem}", str(path), WEIGHTS])
    return shlex.join(["hf", "upload", f"YOUR-NAME/{named.name}", str(path)])


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """Return JSON as growtool writes it into files: two spaces of indent, one newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys) + "\n"
