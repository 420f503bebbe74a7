"""Numbers for the values of passes, and what of a pass is left out or taken for one when its values are numbered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Closed:
    """A run of operations that is left out.

    Attributes:
        path: the module that runs them.
        first, end: the operations, `end` excluded.
        outs: number of each returned tensor -> the number of the input it equals, `zero`, or `unknown`.
    """

    path: str
    first: int
    end: int
    outs: tuple[tuple[int, int | str], ...]


@dataclass(frozen=True, slots=True)
class Renormed:
    """Norms of what has been normalised, which do no more than those before them did.

    Attributes:
        plain: numbers of the tensors that norms without a gain or a shift write,
        last: and of those that other norms write of what such a norm wrote.
    """

    plain: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


class Values:
    """Numbers for values, equal for equal ones, shared by both passes."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.keys: list[Any] = []

    def of(self, *key: Any) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.keys)
            self.keys.append(key)
        return self._numbers[key]

    def new(self, *key: Any) -> int:
        """A value that equals no other."""
        return self.of(len(self.keys), *key)
