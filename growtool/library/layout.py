"""How the tensors of a model lie in its files, where that is not one by one under their own names."""

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
    """Some tensors made of some others.

    Attributes:
        parts: names of what it takes.
        results: names of what comes of it.
        convert: makes the results, from the parts by their names; on meta tensors too.
    """

    parts: tuple[str, ...]
    results: tuple[str, ...]
    convert: Convert


@dataclass(frozen=True)
class Reading:
    """How a model's tensors are read from a file.

    Attributes:
        places: tensor of the model -> the one in the file that it is.
        made: tensor of the model -> what makes it of several, or of a part of one.
        unused: tensors of the file that the library itself passes over.
        tied: tensors of the model that the file does not hold, as they are others under another name.
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
        conversions: what is made of tensors that `names` lacks. Tensors in neither are not written.
    """

    names: Mapping[str, str]
    conversions: Sequence[Conversion] = ()

    def stream(
        self, tensors: Iterable[tuple[str, T]], loaded: Callable[[T], Tensor]
    ) -> Iterator[tuple[str, T | Tensor]]:
        """The tensors of the file as those of the model come; what waits for others is held meanwhile.

        Args:
            tensors: of the model, by name.
            loaded: gives the values of one that is converted.
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
                    made = conversion.convert({part: held.pop(part) for part in conversion.parts})
                    yield from ((result, made[result]) for result in conversion.results)
            del tensor  # before the next one is made
