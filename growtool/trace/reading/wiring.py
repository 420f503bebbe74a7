"""The data flow of a pass: which operation reads the results of which.

An operation is named by the module that it ran in and its place among the operations there. The names hold for two
passes of one kind of model, so that operands in one model can be compared with their counterparts in the other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from growtool.trace.steps import ForwardPass, Step


class Place(NamedTuple):
    """The `number`-th operation that ran in a module."""

    module: str
    number: int


class Written(NamedTuple):
    """A tensor as an operation left it.

    Attributes:
        place: the operation.
        result: index among its results; -1 for another tensor in the memory that it wrote to.
    """

    place: Place
    result: int


@dataclass(frozen=True)
class Wiring:
    """The operations of a pass and the results that each of them reads.

    Attributes:
        steps: place -> the operation, in order.
        reads: place -> the tensors that the operation read, in order, as the last operation left them; None for an
            input, parameter, buffer or constant that none has written.
    """

    steps: dict[Place, Step]
    reads: dict[Place, tuple[Written | None, ...]]

    @classmethod
    def of(cls, forward: ForwardPass) -> Wiring:
        """Return the wiring of a recorded pass."""
        counts = defaultdict[str, int](int)  # module -> its operations so far
        last: dict[int, Written] = {}
        steps: dict[Place, Step] = {}
        reads: dict[Place, tuple[Written | None, ...]] = {}
        for step in forward.steps:
            place = Place(step.module, counts[step.module])
            counts[step.module] += 1
            steps[place] = step
            reads[place] = tuple(last.get(number) for number in step.ins)
            last |= {number: Written(place, -1) for number in step.overwritten}
            last |= {number: Written(place, i) for i, number in enumerate(step.outs)}
        return cls(steps, reads)

    def names(self, module: str) -> list[str]:
        """Return the names of the operations of a module, in order."""
        return [step.name for place, step in self.steps.items() if place.module == module]
