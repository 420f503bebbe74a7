"""Which constructor arguments make a model wider: sets of arguments, compared by what doubling them does to shapes.

Two measures rank a set of arguments. Its `cost` is how far the dimensions that may grow then are from double. Its
`joint` number is how many products of two activations and softmaxes then run over grown channels, which no width
operator keeps exact; it is infinite for a model that does not run, or that does not fit the source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from growtool.library.building import Shapes
from growtool.library.paths import is_path
from growtool.library.values import Value
from growtool.recipe.target.selections import agreeing, by_argument, by_place, by_value
from growtool.recipe.target.trials import Trials
from growtool.trace.axes import may_grow

LEAST_REACH = 0.5  # share of the model that has to grow for arguments to count as scaling it
_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
_SLACK = 0.35  # how much of the way to double may be given up for arguments that leave attention alone
_COMPARED = 6  # sets of arguments compared so
_BUILT = 8  # sets of arguments of one size that are built, those that promise most


class Widening:
    """The arguments that widen a model, found by doubling them alone and together.

    A step is what can be doubled on its own: an argument, or two that the library takes only together.

    Args:
        trials: builds models.
        widening: arguments that widen the model alone; may grow between calls.
        paired: pairs of arguments that widen it together, and that the library refuses to double alone; likewise.
        neutral: arguments that make no tensor larger, one by one or two that agree (numbers of heads); likewise.
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
        self._combined = frozenset[str]()  # the widening arguments that the last call of `width` knew

    def width(self) -> tuple[dict[str, Value], float]:
        """Return the arguments that together bring most dimensions nearest to double, and their joint number.

        Of sets that cost nearly the same, one is preferred after which attention (products, softmax) meets no grown
        channels. No arguments, and 0, if no set reaches much of the model.
        """
        self._combined = frozenset(self._widening)
        unscaled = self._cost(self._trials.shapes)
        feasible = sorted(self._feasible(unscaled), key=lambda entry: entry[0])
        limit = feasible[0][0] + _SLACK * unscaled if feasible else 0.0
        cheap = [size_arguments for cost, size_arguments in feasible if cost <= limit]
        best: tuple[dict[str, Value], float] = ({}, 0.0)
        for size_arguments, joint in self._running_first(cheap[:_COMPARED]):
            candidate = self._with_heads(size_arguments, joint)
            if not best[0] or candidate[1] < best[1]:
                best = candidate
            if candidate[1] == 0:
                break
        return self._extended(*best) if best[0] else best

    def further(self, width: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """Return arguments that agree on being twice as wide, once more arguments are known to widen the model.

        Sets of arguments are compared as before, unless the new ones are paths, of which there are too many. Then all
        that widens is doubled at once, as far as it agrees: argument by argument, number by number, or value by value.

        Args:
            width: arguments that reach little of the model, kept where nothing reaches further.
            joint: their joint number.
        """
        new = self._widening.keys() - self._combined
        if new and not any(map(is_path, new)):
            again = self.width()
            width, joint = again if again[0] and (not width or again[1] < joint) else (width, joint)
        least_reach = max(LEAST_REACH, self._trials.reach(width, by_size=False) if width else 0.0)
        for selections in (by_argument(self._widening), by_place(self._widening), by_value(self._widening)):
            chosen = agreeing(self._trials, self._widening, selections)
            size_arguments = {name: self._widening[name] for name in chosen}
            before = dict(self._trials.places)
            # from here on, `doubled` doubles these places alone
            self._trials.places |= {name: at for name, at in chosen.items() if isinstance(size_arguments[name], tuple)}
            if (
                size_arguments
                and self._fits(size_arguments)
                and self._trials.reach(size_arguments, by_size=False) >= least_reach
            ):
                candidate = self._with_heads(size_arguments, self._trials.jointly_grown(size_arguments))
                if candidate[1] < math.inf and (not width or candidate[1] <= joint):
                    return candidate
            self._trials.places = before
        return width, joint

    def _feasible(self, unscaled: float) -> Iterator[tuple[float, dict[str, Value]]]:
        """Yield sets of arguments that the library accepts together and that cost less than `unscaled`, fewest first.

        The cost comes first in each pair. Larger sets are not tried once a set of some size doubles everything.
        """
        # A Llama of one key head: twice the width alone widens that head, whose size rotary tables fix.
        for (name, value), neutral in itertools.product(self._breaking.items(), self._neutral):
            size_arguments = {name: value, **neutral}
            cost = self._cost_of(size_arguments)
            if cost < unscaled:
                yield cost, size_arguments
        for count in range(1, _MOST_TOGETHER + 1):
            perfect = False
            for steps in self._promising(count):
                size_arguments = {name: value for step in steps for name, value in step.items()}
                cost = self._cost_of(size_arguments)
                perfect = perfect or cost == 0
                if cost < unscaled:
                    yield cost, size_arguments
            if perfect:
                return

    def _steps(self) -> list[Mapping[str, Value]]:
        return [*({name: value} for name, value in self._widening.items()), *self._paired]

    def _promising(self, count: int) -> list[tuple[Mapping[str, Value], ...]]:
        """Return the sets of `count` steps that would cost least if each did together what it does alone."""
        sets = itertools.combinations(self._steps(), count)
        return sorted(sets, key=lambda steps: self._cost(self._foreseen(steps)))[:_BUILT]

    def _foreseen(self, steps: Iterable[Mapping[str, Value]]) -> Shapes:
        """Return the shapes that steps would give together if each multiplied sizes as it does alone.

        Building a model for every set would take far longer; sizes alone tell which sets are worth it.
        """
        shapes = dict(self._trials.shapes)
        for step in steps:
            for tensor, alone in (self._trials.doubled(step) or {}).items():
                old, now = self._trials.shapes.get(tensor), shapes.get(tensor)
                if old is None or now is None or not len(old) == len(alone) == len(now):
                    shapes[tensor] = alone
                else:
                    sizes = zip(now, alone, old, strict=True)
                    shapes[tensor] = tuple(a * b // c if c else a for a, b, c in sizes)
        return shapes

    def _cost(self, shapes: Shapes) -> float:
        """Return how far the dimensions that may grow are from double; each tensor that the source lacks adds one."""
        cost = float(len(shapes) - len(self._trials.shapes))
        for name, shape in self._trials.shapes.items():
            if len(shapes[name]) != len(shape):  # another tensor under the same name: EfficientFormer's `num_vit`
                cost += 1
                continue
            for old, new, axis in zip(shape, shapes[name], self._trials.trace.tensors[name], strict=True):
                if may_grow(axis):
                    cost += abs(new / old - 2)
        return cost

    def _cost_of(self, size_arguments: Mapping[str, Value]) -> float:
        """Return the cost of doubled arguments; infinity if the library refuses them or they change what is fixed."""
        shapes = self._trials.doubled(size_arguments)
        if shapes is None or not shapes.keys() >= self._trials.shapes.keys():
            return math.inf
        return self._cost(shapes) if self._trials.keeps_what_is_fixed(shapes) else math.inf

    def _running_first(self, sets: Iterable[dict[str, Value]]) -> Iterator[tuple[dict[str, Value], float]]:
        """Yield the sets of arguments that reach at least LEAST_REACH of the model, with their joint numbers.

        Those of an infinite joint number come last: each costs a trace per argument that may be what it lacks.
        """
        infinite = list[dict[str, Value]]()
        for size_arguments in sets:
            if max(self._trials.reach(size_arguments, by_size=by_size) for by_size in (True, False)) < LEAST_REACH:
                continue
            joint = self._trials.jointly_grown(size_arguments)
            if joint < math.inf:
                yield size_arguments, joint
            else:
                infinite.append(size_arguments)
        yield from ((size_arguments, math.inf) for size_arguments in infinite)

    def _with_heads(self, size_arguments: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """Add arguments that keep the head size, so that attention meets fewer grown channels.

        Returns:
            The arguments, and their joint number.
        """
        for neutral in self._neutral:
            if joint == 0:
                break
            joint_with = self._trials.jointly_grown({**size_arguments, **neutral})
            if joint_with < joint:
                size_arguments, joint = {**size_arguments, **neutral}, joint_with
        if joint < math.inf:
            return size_arguments, joint
        # It does not run so: perhaps an argument is missing that has to be equal to one of these. One is tried at a
        # time, since no model is known that lacks two, and each pair would cost a trace.
        for step in self._steps():
            extended = {**size_arguments, **step}
            if not step.keys() <= size_arguments.keys() and self._trials.jointly_grown(extended) == 0:
                return extended, 0.0
        return size_arguments, joint

    def _extended(self, size_arguments: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """Add one step after the other, where more dimensions then double and the joint number does not rise."""
        cost = self._cost_of(size_arguments)
        for step in self._steps():
            if not cost or step.keys() <= size_arguments.keys():
                continue
            extended = {**size_arguments, **step}
            lower = self._cost_of(extended)
            if lower < cost and self._trials.jointly_grown(extended) <= joint:
                size_arguments, cost = extended, lower
        return size_arguments, joint

    def _fits(self, size_arguments: Mapping[str, Value]) -> bool:
        """Return whether the model of doubled arguments has the same tensors, and keeps what is fixed."""
        shapes = self._trials.doubled(size_arguments)
        return shapes is not None and self._trials.keeps_tensors(shapes)
