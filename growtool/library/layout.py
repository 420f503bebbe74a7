"""How a file holds the tensors of a model, if not each under its own name: renamed, joined, cut or tied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Convert = Callable[[Mapping[str, "Tensor"]], Mapping[str, "Tensor"]]


@dataclass(frozen=True)
class Conversion:
    """A computation that makes tensors of others.

    Attributes:
        parts: names of the tensors that it takes.
        results: names of the tensors that it makes.
        convert: makes the results of the parts, both by name; works on meta tensors, too.
    """

    parts: tuple[str, ...]
    results: tuple[str, ...]
    convert: Convert

    def of(self, part: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        """Return the results, made of the parts that a function returns by name."""
        return self.convert({name: part(name) for name in self.parts})


@dataclass(frozen=True)
class Reading:
    """How a model's tensors are read from a file.

    Attributes:
        places: tensor of the model -> the tensor of the file that holds its numbers.
        made: tensor of the model -> the conversion that makes it of tensors of the file.
        unused: tensors of the file that the library itself ignores.
        tied: tensors of the model that the file holds only under the name of a tensor that they are tied to.
    """

    places: Mapping[str, str]
    made: Mapping[str, Conversion] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    tied: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Writing:
    """How a model's tensors are written to a file.

    Attributes:
        names: tensor of the model -> its name in the file.
        conversions: make tensors of the file of those of the model that `names` lacks. Tensors in neither are not
            written.
    """

    names: Mapping[str, str]
    conversions: Sequence[Conversion] = ()

    def stream(
        self, tensors: Iterable[tuple[str, T]], loaded: Callable[[T], Tensor]
    ) -> Iterator[tuple[str, T | Tensor]]:
        """Yield the tensors of the file by name, as those of the model come; hold only those that wait for others.

        Args:
            tensors: tensors of the model by name, in a form that this method does not look into.
            loaded: returns the values of a tensor that is to be converted.
        """
        waiting = {part: conversion for conversion in self.conversions for part in conversion.parts}
        held: dict[str, Tensor] = {}
        for name, tensor in tensors:
            if name in self.names:
                yield self.names[name], tensor
            elif name in waiting:
                held[name] = loaded(tensor)
                conversion = waiting[name]
                if held.keys() >= set(conversion.parts):
                    made = conversion.of(held.pop)
                    yield from ((result, made[result]) for result in conversion.results)
            del tensor  # frees its memory before the iterator makes the next one
