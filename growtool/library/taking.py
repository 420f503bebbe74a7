"""Finding out what a library makes of tensors while it loads them, without their numbers.

The library loads tensors on the meta device. A tensor that it gives to the model under another name or in another shape
still has the memory that it had, so its numbers can be read from the file when they are needed. A tensor that the
library computes or cuts has other memory, and has to be made again with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from growtool.library.building import Shapes, memory_of
from growtool.library.loaded import Changed, told_changes
from growtool.library.registry import library_of
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor


# Tensors are read by several threads. `cache` lets all of them in, and `recording` replaces a method for all of them.
_LOADING = Lock()


@dataclass(frozen=True, slots=True)
class LoadedByLibrary:
    """The tensors of a model as its library makes them of those in a file.

    Attributes:
        given: the model's tensors by name, on meta if the file's tensors were.
        places: tensor of the model -> tensor of the file that holds the same numbers in the same order. The library
            makes the tensors that are not in it.
        changes: what the library did, a phrase for each kind of change.
    """

    given: Mapping[str, Tensor]
    places: Mapping[str, str]
    changes: tuple[str, ...]


def made_once(names: Iterable[str], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Callable[[], Tensor]]:
    """Return a function for each tensor that a library makes: the first call of one makes all, and keeps them.

    Args:
        names: the tensors.
        make: makes them, and maybe others.
    """

    @cache
    def tensors() -> dict[str, Tensor]:
        made = make()
        # Copies, so that a part of a tensor does not keep all of it in memory.
        return {name: made[name].detach().contiguous().clone() for name in names}

    def tensor(name: str) -> Tensor:
        with _LOADING:
            return tensors()[name]

    return {name: partial(tensor, name) for name in names}


def loaded_by_library(
    spec: ModelSpec, stored: Mapping[str, Tensor], expected: Shapes, folder: Path | None
) -> LoadedByLibrary | None:
    """Return what a library makes of the tensors in a file; None if it refuses them or lacks some of the model's.

    Args:
        spec: the model.
        stored: the tensors in the file by name; on meta, to find out what can be known without their numbers.
        expected: shapes of the model's tensors by name.
        folder: a folder whose `config.json` says how to load them; None if the spec does.
    """
    versions = {name: tensor._version for name, tensor in stored.items()}
    loaded = library_of(spec).load_state(spec, stored, folder)
    if loaded is None or loaded.missing:
        return None
    given = {name: loaded.given[name] for name in expected if name in loaded.given}
    if {name: tuple(tensor.shape) for name, tensor in given.items()} != dict(expected):
        return None
    # torch counts the changes in place of each memory. After one the same memory does not mean the same numbers.
    if any(tensor._version != versions[name] for name, tensor in stored.items()):
        return LoadedByLibrary(given, {}, ("changes numbers in place",))
    name_of_memory = {memory_of(tensor): name for name, tensor in stored.items()}
    views = {name: name_of_memory.get(memory_of(tensor)) for name, tensor in given.items()}
    places = {name: old for name, old in views.items() if old is not None and _is_whole(given[name], stored[old])}
    # A made tensor counts as made of the one of its name: a head that is cut, a position embedding that is resampled.
    used = {*places.values(), *(name for name in given if name not in places)}
    left = [name for name in stored if name not in used]
    return LoadedByLibrary(given, places, tuple(told_changes(_changes(given, places, stored), left)))


def _is_whole(view: Tensor, whole: Tensor) -> bool:
    """Return whether a view holds all numbers of a tensor in the same order, rather than a part or a transpose."""
    same = view.dtype == whole.dtype and view.numel() == whole.numel()
    return bool(same and view.storage_offset() == 0 and view.is_contiguous() and whole.is_contiguous())


def _changes(given: Mapping[str, Tensor], places: Mapping[str, str], stored: Mapping[str, Tensor]) -> Iterator[Changed]:
    """Yield the tensors of the model that have another name, shape or numbers than in the file."""
    for name, tensor in given.items():
        old = places.get(name) or (name if name in stored else None)
        before = stored[old].shape if old is not None else ()
        if name not in places or old != name or before != tensor.shape:
            yield name, old, before, tensor.shape, name in places
