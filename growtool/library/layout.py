"""How a file holds the tensors of a model, if not each under its own name: renamed, joined, cut or tied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

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
