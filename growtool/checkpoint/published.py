"""Checkpoints that are named: by the address of a repository in the hub, or as a library of models calls them.

The config is fetched first, and of the weights their header alone. They are downloaded when the first of them is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from growtool.checkpoint.documents import CONFIG, spec_beside
from growtool.checkpoint.header import read_header, require_known_types
from growtool.checkpoint.remedy import INDEX_ENDING, listed, looks_like_weights, shards
from growtool.checkpoint.tensors import TensorInfo, infos_of
from growtool.errors import CheckpointError, format_names
from growtool.hub.names import Address, Name
from growtool.hub.repository import Origin, Repository, cached, locate, snapshot
from growtool.library import ModelSpec, build, libraries, library_of
from growtool.library.published import Published

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}{INDEX_ENDING}"
_BESIDE = ("growth.json", "README.md")  # what growtool itself keeps beside weights, and reads there


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that was looked up.

    Attributes:
        path: of its weights, there or to be fetched; of their folder where there are several files of them.
        origin: where they come from.
        header: of them, as `read_header` returns it; empty for a folder.
        spec: the model, where the name says it; else the config beside the weights does.
        places: as `Checkpoint` has them.
    """

    path: Path
    origin: Origin
    header: tuple[Mapping[str, TensorInfo], Mapping[str, str]] = field(default=({}, {}), repr=False)
    spec: ModelSpec | None = None
    places: Mapping[str, str | None] = field(default_factory=dict)


def look_up(name: Name, *, counting: bool) -> Found:
    """What `name` names.

    Args:
        name: from `named`.
        counting: whether sizes are all that is wanted. Of a model that a library knows nothing is fetched then: its
            tensors are those that the library builds, unless the weights are in the cache.

    Raises:
        CheckpointError: it cannot be had, or is in a form that growtool does not read.
    """
    return _in_hub(name) if name.in_hub else _known(name, counting)


def _in_hub(name: Name) -> Found:
    repository = locate(name.address, name.text)
    spec = spec_beside(repository.fetch(CONFIG)) if CONFIG in repository.files else None
    patterns = (*_BESIDE, *(library_of(spec).beside if spec else ()))
    for file in sorted(repository.files):
        if any(fnmatch(file, pattern) for pattern in patterns):
            repository.fetch(file)
    pinned = f"hf-hub:{repository.name}@{repository.commit}"
    if _WEIGHTS in repository.files:
        return _held(repository, _WEIGHTS, pinned)
    if _INDEX in repository.files:
        index = repository.fetch(_INDEX)
        files = [repository.fetch(file, shown=True) for file in shards(index)]
        return Found(repository.folder, _origin(repository, files[0].name, pinned))
    raise _no_safetensors(repository, spec)


def _known(name: Name, counting: bool) -> Found:
    library = next(library for library in libraries() if library.knows(name.word))
    published = library.published(name.word)
    address = Address(published.repository, name.revision or published.revision)
    repository = cached(address, name.text) if counting else locate(address, name.text)
    if repository is None or (counting and published.file not in repository.files):
        return _as_built(name, published, address)
    if published.file not in repository.files:
        raise _no_safetensors(repository, published.spec)
    found = _held(repository, published.file, f"{name.word}@{repository.commit}")
    return replace(found, spec=published.spec)


def _as_built(name: Name, published: Published, address: Address) -> Found:
    """The tensors of a model as its library builds it."""
    state = build(published.spec, where=name.text).state_dict(keep_vars=True)
    first: dict[int, str] = {}
    places = {key: first.setdefault(id(tensor), key) for key, tensor in state.items()}
    shared = {key: place for key, place in places.items() if key != place}
    path = snapshot(address.repository, address.revision or "main") / published.file
    origin = Origin(name.text, name.text, address.repository, None, partial(_fetch, name))
    return Found(path, origin, (infos_of(state), {}), published.spec, shared)


def _fetch(name: Name) -> Path:
    return _known(name, counting=False).origin.fetch()


def _held(repository: Repository, file: str, pinned: str) -> Found:
    """One file of weights by its header: that of the file in the cache, else that in the hub."""
    path, origin = repository.folder / file, _origin(repository, file, pinned)
    if path.exists():
        return Found(path, origin, read_header(path))
    header = repository.header(file)
    tensors = {name: TensorInfo(tuple(info.shape), info.dtype) for name, info in header.tensors.items()}
    require_known_types(f"{repository.text}: {file}", tensors)
    return Found(path, origin, (tensors, {key: str(value) for key, value in header.metadata.items()}))


def _origin(repository: Repository, file: str, pinned: str) -> Origin:
    fetch = partial(repository.fetch, file, shown=True)
    return Origin(repository.text, pinned, repository.name, repository.commit, fetch)


def _no_safetensors(repository: Repository, spec: ModelSpec | None) -> CheckpointError:
    """The refusal of a repository without weights that growtool reads, with the way out.

    Raises:
        CheckpointError: the hub does not answer, and the cache does not hold the weights.
    """
    repository.require_complete(_WEIGHTS)
    held = sorted(file for file in repository.files if looks_like_weights(file))
    finding = f"{repository.text}: found {format_names(held) or 'no weights'} in {repository.name}, expected {_WEIGHTS}"
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
