"""Which operation reads what which other one wrote, in names that hold for two passes of the same kind of model.

An operation is known by the module it ran in and by its place among the operations there. So the operand of an
operation in one model can be compared with that of its counterpart in another.
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
    """A tensor as an operation left it: its first result, the second, ...; -1 where it shares memory with one."""

    place: Place
    result: int


@dataclass(frozen=True)
class Wiring:
    """Which operation reads what another one wrote.

    Attributes:
        steps: every operation by its place, in order.
        reads: place -> for each tensor the operation read, in order, what wrote it last; None for the inputs,
            parameters, buffers and constants.
    """

    steps: dict[Place, Step]
    reads: dict[Place, tuple[Written | None, ...]]

    @classmethod
    def of(cls, forward: ForwardPass) -> Wiring:
        """The wiring of a recorded pass."""
        ran = defaultdict[str, int](int)
        last: dict[int, Written] = {}
        steps: dict[Place, Step] = {}
        reads: dict[Place, tuple[Written | None, ...]] = {}
        for step in forward.steps:
            place = Place(step.module, ran[step.module])
            ran[step.module] += 1
            steps[place] = step
            reads[place] = tuple(last.get(number) for number in step.ins)
            last |= {number: Written(place, -1) for number in step.overwritten}
            last |= {number: Written(place, i) for i, number in enumerate(step.outs)}
        return cls(steps, reads)

    def names(self, module: str) -> list[str]:
        """The operations of a module in order."""
        return [step.name for place, step in self.steps.items() if place.module == module]
