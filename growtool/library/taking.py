"""What a library makes of tensors while it loads them, found without their numbers.

The library loads tensors on the meta device. One that it gives to the model under another name or in another shape is
still the memory that it was given, so that its numbers can be read from the file as they are needed. What it computes
or cuts has to be made with the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from growtool.library.building import memory_of
from growtool.library.loaded import Changed, told_changes
from growtool.library.registry import library_of
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor


_LOADING = Lock()  # tensors are read by several threads, and a library is no place for two of them


@dataclass(frozen=True, slots=True)
class Taken:
    """The tensors of a model as its library makes them of those in a file.

    Attributes:
        given: what the model gets, by its names; on meta where the file's tensors were.
        places: tensor of the model -> the one in the file whose numbers it holds, in their order. The others are made.
        changes: what the library did, a phrase for each kind.
    """

    given: Mapping[str, Tensor]
    places: Mapping[str, str]
    changes: tuple[str, ...]


class Made(Mapping[str, "Tensor"]):
    """Tensors that a library makes of others, once the first of them is wanted; all are held then."""

    def __init__(self, names: tuple[str, ...], make: Callable[[], Mapping[str, Tensor]]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    @cached_property
    def _tensors(self) -> Mapping[str, Tensor]:
        made = self._make()
        return {name: made[name].detach().contiguous().clone() for name in self._names}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with _LOADING:
            return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def taken(
    spec: ModelSpec, stored: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], folder: Path | None
) -> Taken | None:
    """What the library of `spec` makes of tensors; None where it does not take them, or lacks some of the model's.

    Args:
        spec: the model.
        stored: the tensors in the file; on meta for all that can be known without their numbers.
        expected: shapes of the model's tensors by their names.
        folder: where the `config.json` is; None where the spec has to do.
    """
    versions = {name: tensor._version for name, tensor in stored.items()}
    loaded = library_of(spec).load_state(spec, stored, folder)
    if loaded is None or loaded.missing:
        return None
    given = {name: loaded.given[name] for name in expected if name in loaded.given}
    if {name: tuple(tensor.shape) for name, tensor in given.items()} != dict(expected):
        return None
    if any(tensor._version != versions[name] for name, tensor in stored.items()):
        return Taken(given, {}, ("changes numbers in place",))
    home = {memory_of(tensor): name for name, tensor in stored.items()}
    places = {name: home[memory_of(tensor)] for name, tensor in given.items() if memory_of(tensor) in home}
    places = {name: old for name, old in places.items() if _is_whole(given[name], stored[old])}
    used = {*places.values(), *(name for name in given if name not in places)}
    left = [name for name in stored if name not in used]
    return Taken(given, places, tuple(told_changes(_changes(given, places, stored), left)))


def _is_whole(tensor: Tensor, of: Tensor) -> bool:
    """Whether it is all of another in the same order."""
    same = tensor.dtype == of.dtype and tensor.numel() == of.numel()
    return bool(same and tensor.storage_offset() == 0 and tensor.is_contiguous() and of.is_contiguous())


def _changes(given: Mapping[str, Tensor], places: Mapping[str, str], stored: Mapping[str, Tensor]) -> Iterator[Changed]:
    """The tensors of the model that are not as they were in the file."""
    for name, tensor in given.items():
        old = places.get(name) or (name if name in stored else None)
        before = stored[old].shape if old is not None else ()
        if name not in places or old != name or before != tensor.shape:
            yield name, old, before, tensor.shape, name in places
