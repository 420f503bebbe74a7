"""Numbers for the values of passes; which runs of a pass are left out, and which norms do nothing, as they get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Closed:
    """A run of operations that is left out.

    Attributes:
        path: the module that runs them.
        first, end: places of the operations, `end` excluded.
        outs: number of each returned tensor -> the number of the input it equals, `zero`, or `unknown`.
    """

    path: str
    first: int
    end: int
    outs: tuple[tuple[int, int | str], ...]


@dataclass(frozen=True, slots=True)
class Renormed:
    """Norms of what has been normalised already: a second norm changes nothing, n(n(z)) = n(z), up to eps.

    Attributes:
        plain: numbers of the tensors that norms with gains of one and shifts of zero write, `n(z)`.
        last: numbers of the tensors that other norms write of such a tensor, `g n(n(z)) + b`.
    """

    plain: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


class Values:
    """The numbers of values, shared by both passes: values with equal keys have the same number.

    Attributes:
        keys: number -> the key of the value.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.keys: list[Any] = []

    def of(self, *key: Any) -> int:
        """Return the number of the value with this key."""
        if key not in self._numbers:
            self._numbers[key] = len(self.keys)
            self.keys.append(key)
        return self._numbers[key]

    def new(self, *key: Any) -> int:
        """Return the number of a new value that equals no other."""
        return self.of(len(self.keys), *key)
