"""Which constructor arguments widen a model together, among those that widen some of it alone.

First a few arguments as they are; where these reach little of the model, all that agree (`recipe.target.closure`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from growtool.library.building import Shapes
from growtool.library.paths import is_path
from growtool.library.values import Value, leaves
from growtool.recipe.target.closure import Closure
from growtool.recipe.target.trials import Trials, twice_at
from growtool.trace import groups_on

LEAST_REACH = 0.5  # share of the model that has to grow for arguments to count as scaling it
_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
_SLACK = 0.35  # how much of the way to double may be given up for arguments that leave attention alone
_COMPARED = 6  # sets of arguments compared so
_BUILT = 8  # sets of arguments of one size that are built, those that promise most
_Numbers = Mapping[str, frozenset[int]]  # argument -> places among its numbers
_Number = tuple[str, int]


class Widening:
    """The arguments that widen a model, found by doubling them alone and together.

    Args:
        trials: builds models.
        widening: arguments that widen the model alone; may grow between calls.
        paired: two arguments each that do so together, and that the library refuses to double alone; likewise.
        neutral: arguments that leave every shape alone, one by one or two that agree; likewise.
        breaking: arguments that widen much of the model and, alone, change what is fixed (the size of heads); likewise.
    """

    def __init__(
        self,
        trials: Trials,
        widening: Mapping[str, Value],
        paired: Sequence[Mapping[str, Value]],
        neutral: Sequence[Mapping[str, Value]],
        breaking: Mapping[str, Value],
    ) -> None:
        self._trials, self._widening, self._paired, self._neutral = trials, widening, paired, neutral
        self._breaking = breaking
        self._combined = frozenset[str]()

    def width(self) -> tuple[dict[str, Value], float]:
        """The arguments that together bring most dimensions nearest to double, and what grows jointly with them.

        Arguments that are nearly as good are preferred if attention (products, softmax) then meets no grown channels.
        """
        self._combined = frozenset(self._widening)
        nothing = self._cost(self._trials.shapes)
        feasible = sorted(self._feasible(nothing), key=lambda found: found[0])
        near = [size_arguments for cost, size_arguments in feasible if cost <= feasible[0][0] + _SLACK * nothing][
            :_COMPARED
        ]
        best: tuple[dict[str, Value], float] = ({}, 0.0)
        for size_arguments, joint in self._running_first(near):
            found = self._with_heads(size_arguments, joint)
            if not best[0] or found[1] < best[1]:
                best = found
            if found[1] == 0:
                break
        return self._extended(*best) if best[0] else best

    def _running_first(self, near: Iterable[dict[str, Value]]) -> Iterator[tuple[dict[str, Value], float]]:
        """Those that reach much of the model, with what grows jointly; last those that lead nowhere without others."""
        others = list[dict[str, Value]]()
        for size_arguments in near:
            if max(self._trials.reach(size_arguments, by_size=by_size) for by_size in (True, False)) < LEAST_REACH:
                continue
            joint = self._trials.jointly_grown(size_arguments)
            if joint < math.inf:
                yield size_arguments, joint
            else:
                others.append(size_arguments)
        yield from ((size_arguments, math.inf) for size_arguments in others)

    def _extended(self, size_arguments: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """One argument after the other on top, where more dimensions then double and attention meets no more of it."""
        cost = self._possible(size_arguments)
        for added in self._steps():
            more = {**size_arguments, **added}
            lower = math.inf if not cost or added.keys() <= size_arguments.keys() else self._possible(more)
            if lower < cost and self._trials.jointly_grown(more) <= joint:
                size_arguments, cost = more, lower
        return size_arguments, joint

    def _possible(self, size_arguments: Mapping[str, Value]) -> float:
        """What doubled arguments cost; infinity where the library refuses them or they change what is fixed."""
        shapes = self._trials.doubled(size_arguments)
        if shapes is None or not shapes.keys() >= self._trials.shapes.keys():
            return math.inf
        return self._cost(shapes) if self._trials.keeps_what_is_fixed(shapes) else math.inf

    def further(self, width: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """What agrees on being twice as wide, now that more is known to widen the model.

        Sets of arguments as before, unless these are paths, of which there are too many; then what agrees argument by
        argument, number by number or value by value.

        Args:
            width: arguments that reach little of the model, kept where nothing reaches further.
            joint: what grows jointly with them.
        """
        new = self._widening.keys() - self._combined
        if new and not any(map(is_path, new)):
            again = self.width()
            width, joint = again if again[0] and (not width or again[1] < joint) else (width, joint)
        least = self._trials.reach(width, by_size=False) if width else 0.0
        for groups in (self._arguments(), self._places(), self._equal()):
            chosen = self._agreeing(groups)
            size_arguments = {name: self._widening[name] for name in chosen}
            before = dict(self._trials.places)
            self._trials.places |= {name: at for name, at in chosen.items() if isinstance(size_arguments[name], tuple)}
            if (
                size_arguments
                and self._grows_alike(size_arguments)
                and self._trials.reach(size_arguments, by_size=False) >= max(least, LEAST_REACH)
            ):
                found = self._with_heads(size_arguments, self._trials.jointly_grown(size_arguments))
                if found[1] < math.inf and (not width or found[1] <= joint):
                    return found
            self._trials.places = before
        return width, joint

    def _grows_alike(self, size_arguments: Mapping[str, Value]) -> bool:
        shapes = self._trials.doubled(size_arguments)
        return (
            shapes is not None
            and shapes.keys() == self._trials.shapes.keys()
            and self._trials.keeps_what_is_fixed(shapes)
        )

    def _arguments(self) -> dict[str | _Number, _Numbers]:
        return {name: {name: frozenset(range(len(leaves(value))))} for name, value in self._widening.items()}

    def _places(self) -> dict[str | _Number, _Numbers]:
        """The numbers of paths, each on its own."""
        paths = [name for name in self._widening if is_path(name)]
        whole = {name: numbers for name, numbers in self._arguments().items() if paths and name not in paths}
        return whole | {
            (name, at): {name: frozenset({at})}
            for name in paths
            for at, number in enumerate(leaves(self._widening[name]))
            if not isinstance(number, str) and number
        }

    def _equal(self) -> dict[str | _Number, _Numbers]:
        """The numbers of paths that are equal: layer after layer of the same width, none of which can grow alone."""
        found: dict[str | _Number, _Numbers] = {}
        for key, numbers in self._places().items():
            if isinstance(key, str):
                found[key] = numbers
            elif isinstance(number := leaves(self._widening[key[0]])[key[1]], int):
                group = found.setdefault(("", number), {})
                found["", number] = {**group, key[0]: group.get(key[0], frozenset()) | {key[1]}}
        return found

    def _agreeing(self, groups: Mapping[str | _Number, _Numbers]) -> dict[str, frozenset[int]]:
        """The numbers of each argument that agree, of groups of numbers that are doubled together."""
        feasible: dict[str | _Number, Shapes] = {}
        for key, group in groups.items():
            shapes = self._trials.built(
                {name: twice_at(self._widening[name], places) for name, places in group.items()}
            )
            if shapes is not None and self._only_grows(shapes):
                feasible[key] = shapes
        closure = Closure(self._trials.shapes, self._trials.trace.tensors, feasible)
        chosen: dict[str, frozenset[int]] = {}
        for key in closure.nearest(
            closure.agreeing(feasible), kind=lambda key: key[0] or key if isinstance(key, tuple) else key
        ):
            for name, places in groups[key].items():
                chosen[name] = chosen.get(name, frozenset()) | places
        return chosen

    def _only_grows(self, shapes: Shapes) -> bool:
        """Whether the same tensors are there, some of them larger and none smaller: a stride changes none."""
        own = self._trials.shapes
        return (
            shapes.keys() == own.keys()
            and shapes != own
            and self._trials.keeps_what_is_fixed(shapes)
            and all(new >= old for name, shape in own.items() for old, new in zip(shape, shapes[name], strict=True))
        )

    def _feasible(self, nothing: float) -> Iterator[tuple[float, dict[str, Value]]]:
        """Sets of arguments that the library accepts together, with their cost, fewest first."""
        for (name, value), neutral in itertools.product(self._breaking.items(), self._neutral):
            size_arguments = {name: value, **neutral}
            cost = self._possible(size_arguments)
            if cost < nothing:
                yield cost, size_arguments
        for together in range(1, _MOST_TOGETHER + 1):
            perfect = False
            for steps in self._promising(together):
                size_arguments = {name: value for step in steps for name, value in step.items()}
                cost = self._possible(size_arguments)
                perfect = perfect or cost == 0
                if cost < nothing:
                    yield cost, size_arguments
            if perfect:
                return

    def _steps(self) -> list[Mapping[str, Value]]:
        """What can be doubled on its own: an argument, or two that belong together."""
        return [*({name: value} for name, value in self._widening.items()), *self._paired]

    def _promising(self, together: int) -> list[tuple[Mapping[str, Value], ...]]:
        """The sets of so many steps that would cost least if each did together what it does alone."""
        sets = itertools.combinations(self._steps(), together)
        return sorted(sets, key=lambda steps: self._cost(self._foreseen(steps)))[:_BUILT]

    def _foreseen(self, steps: Iterable[Mapping[str, Value]]) -> Shapes:
        """The shapes that steps would give together if each multiplied sizes as it does alone."""
        shapes = dict(self._trials.shapes)
        for step in steps:
            alone = self._trials.doubled(step) or {}
            for tensor, shape in alone.items():
                old, now = self._trials.shapes.get(tensor), shapes.get(tensor)
                if old is None or now is None or not len(old) == len(shape) == len(now):
                    shapes[tensor] = shape
                else:
                    shapes[tensor] = tuple(a * b // c if c else a for a, b, c in zip(now, shape, old, strict=True))
        return shapes

    def _cost(self, shapes: Shapes) -> float:
        """How far the dimensions that may grow are from double; a tensor that the source lacks counts as one more."""
        cost = float(len(shapes) - len(self._trials.shapes))
        for name, shape in self._trials.shapes.items():
            if len(shapes[name]) != len(shape):  # another tensor under the same name
                cost += 1
                continue
            for old, new, axis in zip(shape, shapes[name], self._trials.trace.tensors[name], strict=True):
                if any(group.fixed is None for group in groups_on(axis)):
                    cost += abs(new / old - 2)
        return cost

    def _with_heads(self, size_arguments: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """Add arguments that keep the head size: those that rid attention of grown channels. How many are left."""
        for neutral in self._neutral:
            if joint == 0:
                break
            left = self._trials.jointly_grown({**size_arguments, **neutral})
            if left < joint:
                size_arguments, joint = {**size_arguments, **neutral}, left
        if joint < math.inf:
            return size_arguments, joint
        for added in self._steps():  # nothing comes of any of them: another may be what lacks
            more = {**size_arguments, **added}
            if not added.keys() <= size_arguments.keys() and self._trials.jointly_grown(more) == 0:
                return more, 0.0
        return size_arguments, joint
