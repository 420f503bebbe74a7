"""Opening a checkpoint by what a user typed: a folder, a file, or a name.

A name is the address of a repository in the hub, or a name that a library of models publishes weights under. Config and
header are fetched at once. The weights are downloaded when the first tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from growtool.checkpoint.beside import CARD, PICTURE, REPORT, matches
from growtool.checkpoint.documents import CONFIG, WEIGHTS, find_config, spec_beside
from growtool.checkpoint.foreign.finding import find_weights, other_kind
from growtool.checkpoint.foreign.remedy import WEIGHT_ENDINGS, listed, shards
from growtool.checkpoint.form import find_form
from growtool.checkpoint.header import Header, read_header, require_known_types
from growtool.checkpoint.reader import Checkpoint
from growtool.checkpoint.shards import INDEX, read_shards
from growtool.checkpoint.tensors import TensorInfo, infos_of
from growtool.errors import CheckpointError, format_names
from growtool.hub.names import LOCAL, Address, Name, named
from growtool.hub.repository import Origin, Repository, cached, locate, snapshot
from growtool.library import ModelSpec, build, libraries, library_of, spec_from, spec_named
from growtool.library.building import shared_names
from growtool.library.spec import Published


def open_checkpoint(
    source: str | Path,
    *,
    architecture: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    otherwise: ModelSpec | None = None,
    remedy: str = f"put the {CONFIG} that was saved with it beside it",
    counting: bool = False,
) -> Checkpoint:
    """Open a folder of timm or transformers, a `.safetensors` file, or a published checkpoint by its name.

    Args:
        source: a folder with `config.json` and `model.safetensors`, or a file; a `local-dir:` prefix is accepted. Else
            a name: `hf-hub:org/name@revision`, `org/name`, or one that a library knows, such as `resnet50.a1_in1k`.
        architecture: the model that a lone file without a config belongs to.
        model_args: arguments of the constructor, which come before those of the config.
        otherwise: the model of a lone file without a config, if `architecture` is not given either.
        remedy: what the error advises if nothing says which model a lone file is of.
        counting: whether only names, shapes and types will be read, as in `look_up`.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged or not safetensors, or nothing names its model.
    """
    name = named(str(source))
    found = look_up(name, counting=counting) if name else _on_disk(Path(str(source).removeprefix(LOCAL)))
    weights, header = found.path, found.header
    config, where = ({}, "") if found.spec else find_config(weights, header.metadata)
    told = found.spec or (spec_from(config, where=where) if where else None if architecture else otherwise)
    if told is None and architecture is None:
        raise CheckpointError(
            f"{source if name else weights}: no architecture: found neither a {CONFIG} beside it nor a spec in its "
            f"metadata, expected one; {remedy}"
        )
    spec = (told or spec_named(str(architecture))).with_plan_args(
        architecture, model_args or {}, where=where or str(source)
    )
    form = find_form(weights, header.tensors, header.metadata)
    return Checkpoint(
        weights, spec, header.tensors, header.metadata, config, form, found.places,
        files=found.files, origin=found.origin,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that was found on disk, or looked up by a name.

    Attributes:
        path: the weights, on disk or to be downloaded; their index if they are in several files.
        origin: where the weights come from; None for those on disk.
        header: tensors and metadata of the weights.
        spec: the model, if the name tells it; None leaves it to the config beside the weights.
        places, files: as in `Checkpoint`.
    """

    path: Path
    origin: Origin | None
    header: Header = field(repr=False)
    spec: ModelSpec | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


def look_up(name: Name, *, counting: bool) -> Found:
    """Look a name up, in the hub or among the names that libraries know.

    Args:
        name: from `named`.
        counting: whether only names, shapes and types will be read. For a name that a library knows nothing is fetched
            then: the tensors are those of the model that the library builds, unless the weights are in the cache.

    Raises:
        CheckpointError: the hub does not answer, knows no such name, or has it in a form that growtool does not read.
    """
    return _in_hub(name) if name.in_hub else _known(name, counting)


def _in_hub(name: Name) -> Found:
    """Return the checkpoint of a repository in the hub; its small files are fetched."""
    repository = locate(name.address)
    spec = spec_beside(repository.fetch(CONFIG)) if CONFIG in repository.files else None
    patterns = (REPORT, PICTURE, CARD, *(library_of(spec).beside if spec else ()))
    for file in sorted(repository.files):
        if matches(file, patterns):
            repository.fetch(file)
    pinned = f"hf-hub:{repository.name}@{repository.commit}"
    if WEIGHTS in repository.files:
        return _held(repository, WEIGHTS, pinned)
    if INDEX in repository.files:
        return _in_shards(repository, pinned)
    raise _no_safetensors(repository, spec)


def _in_shards(repository: Repository, pinned: str) -> Found:
    """Return the checkpoint of a repository with weights in several files, of which the headers alone are read."""
    index = repository.fetch(INDEX)
    files = tuple(shards(index))
    origin = repository.origin(pinned, partial(_fetch_all, repository, files))
    header, held = read_shards(index, partial(_header, repository))
    return Found(index, origin, header, files=held)


def _fetch_all(repository: Repository, files: Sequence[str]) -> Path:
    for file in files:
        repository.fetch(file, shown=True)
    return repository.fetch(INDEX)


def _known(name: Name, counting: bool) -> Found:
    """Return the checkpoint that a library publishes under a name."""
    library = next(library for library in libraries() if library.knows(name.word))
    published = library.published(name.word)
    address = Address(name.text, published.repository, name.revision or published.revision)
    repository = cached(address) if counting else locate(address)
    if repository is None or (counting and published.file not in repository.files):
        return _as_built(name, published, address)
    if published.file not in repository.files:
        raise _no_safetensors(repository, published.spec)
    found = _held(repository, published.file, f"{name.word}@{repository.commit}")
    return replace(found, spec=published.spec)


def _as_built(name: Name, published: Published, address: Address) -> Found:
    """Return a checkpoint with the tensors of a model as its library builds it; its weights can still be fetched."""
    state = build(published.spec, where=name.text).state_dict(keep_vars=True)
    shared = {key: first for first, *others in shared_names(state) for key in others}
    path = snapshot(address.repository, address.revision or "main") / published.file
    origin = Origin(name.text, name.text, address.repository, None, partial(_fetch, name))
    return Found(path, origin, Header(infos_of(state), {}), published.spec, shared)


def _fetch(name: Name) -> Path:
    origin = _known(name, counting=False).origin
    assert origin is not None, "a name has one"
    return origin.fetch()


def _held(repository: Repository, file: str, pinned: str) -> Found:
    """Return the checkpoint of one file of weights, of which the header alone is read."""
    path = repository.folder / file
    origin = repository.origin(pinned, partial(repository.fetch, file, shown=True))
    return Found(path, origin, _header(repository, path))


def _header(repository: Repository, path: Path) -> Header:
    """Return what the header of a file tells: of the file in the cache, else of the one in the hub."""
    if path.exists():
        return read_header(path)
    file = path.relative_to(repository.folder).as_posix()
    header = repository.header(file)
    tensors = {name: TensorInfo(tuple(info.shape), info.dtype) for name, info in header.tensors.items()}
    require_known_types(f"{repository.address.text}: {file}", tensors)
    return Header(tensors, {key: str(value) for key, value in header.metadata.items()})


def _no_safetensors(repository: Repository, spec: ModelSpec | None) -> CheckpointError:
    """Return the error for a repository without weights that growtool reads, with advice.

    Raises:
        CheckpointError: the hub does not answer, so that the weights may be there and not in the cache.
    """
    text = repository.address.text
    repository.require_complete(WEIGHTS)
    kind = other_kind(repository.files, repository.fetch)
    if kind:
        return CheckpointError(f"{text}: {kind}")
    held = sorted(file for file in repository.files if file.endswith(WEIGHT_ENDINGS))
    finding = f"{text}: found {format_names(held) or 'no weights'} in {repository.name}, expected {WEIGHTS}"
    if not held:
        return CheckpointError(f"{finding}; name a repository with the weights of a model")
    revision = repository.address.revision
    address = f"hf-hub:{repository.name}{f'@{revision}' if revision else ''}"
    if spec is not None and (lines := library_of(spec).fetching(address)):
        return CheckpointError(
            f"{finding}; growtool reads no format that can hold code, make a folder of it with {spec.library}:"
            f"{listed(lines)}"
        )
    return CheckpointError(
        f"{finding}; growtool reads no format that can hold code, download the file and convert it:"
        + listed(
            (
                f"hf download {repository.name} {held[0]} --local-dir FOLDER",
                f"growtool import FOLDER/{held[0]} --model NAME -o OUT",
            )
        )
    )


def _on_disk(path: Path) -> Found:
    """Return the checkpoint in a folder or a file on disk."""
    weights = find_weights(path)
    if weights.name != INDEX:
        return Found(weights, None, read_header(weights))
    header, files = read_shards(weights)
    return Found(weights, None, header, files=files)
