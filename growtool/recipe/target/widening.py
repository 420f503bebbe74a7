"""Which constructor arguments make a model wider: sets of arguments, compared by what doubling them does to shapes.

Two measures rank a set of arguments. Its `cost` is how far the dimensions that may grow then are from double. Its
`joint` number is how many products of two activations and softmaxes then run over grown channels, which no width
operator keeps exact; it is infinite for a model that does not run, or that does not fit the source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from growtool.library.building import Shapes
from growtool.library.paths import is_path
from growtool.recipe.target.selections import agreeing, by_argument, by_place, by_value
from growtool.recipe.target.trials import Trials
from growtool.trace.axes import may_grow

LEAST_REACH = 0.5  # share of the model that has to grow for arguments to count as scaling it
_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
_SLACK = 0.35  # how much of the way to double may be given up for arguments that leave attention alone
_COMPARED = 6  # sets of arguments compared so
_BUILT = 8  # sets of arguments of one size that are built, those that promise most


Names = tuple[str, ...]  # arguments that are doubled together


@dataclass
class Found:
    """What arguments do when they are doubled, as far as they have been tried.

    Attributes:
        widening: arguments that widen the model alone.
        paired: pairs of arguments that widen it together, and that the library refuses to double alone.
        neutral: counts that make no tensor larger (numbers of heads), alone or two that the library takes together.
        breaking: arguments that widen much of the model and, alone, change what is fixed (the size of heads).
    """

    widening: list[str] = field(default_factory=list)
    paired: list[Names] = field(default_factory=list)
    neutral: list[Names] = field(default_factory=list)
    breaking: list[str] = field(default_factory=list)


class Widening:
    """The arguments that widen a model, found by doubling them alone and together.

    A step is what can be doubled on its own: an argument, or two that the library takes only together.

    Args:
        trials: builds models.
        found: what is known of single arguments; may grow between calls.
    """

    def __init__(self, trials: Trials, found: Found) -> None:
        self._trials, self._found = trials, found
        self._combined = frozenset[str]()  # the widening arguments that the last call of `width` knew

    def width(self) -> tuple[Names, float]:
        """Return the arguments that together bring most dimensions nearest to double, and their joint number.

        Of sets that cost nearly the same, one is preferred after which attention (products, softmax) meets no grown
        channels. No arguments, and 0, if no set reaches much of the model.
        """
        self._combined = frozenset(self._found.widening)
        unscaled = self._cost(self._trials.shapes)
        feasible = sorted(self._feasible(unscaled), key=lambda entry: entry[0])
        limit = feasible[0][0] + _SLACK * unscaled if feasible else 0.0
        cheap = [names for cost, names in feasible if cost <= limit]
        best: tuple[Names, float] = ((), 0.0)
        for names, joint in self._running_first(cheap[:_COMPARED]):
            candidate = self._with_heads(names, joint)
            if not best[0] or candidate[1] < best[1]:
                best = candidate
            if candidate[1] == 0:
                break
        return self._extended(*best) if best[0] else best

    def further(self, width: Names, joint: float) -> tuple[Names, float]:
        """Return arguments that agree on being twice as wide, once more arguments are known to widen the model.

        Sets of arguments are compared as before, unless the new ones are paths, of which there are too many. Then all
        that widens is doubled at once, as far as it agrees: argument by argument, number by number, or value by value.

        Args:
            width: arguments that reach little of the model, kept where nothing reaches further.
            joint: their joint number.
        """
        new = set(self._found.widening) - self._combined
        if new and not any(map(is_path, new)):
            again = self.width()
            width, joint = again if again[0] and (not width or again[1] < joint) else (width, joint)
        least_reach = max(LEAST_REACH, self._trials.reach(width) if width else 0.0)
        widening = {name: self._trials.values[name] for name in self._found.widening}
        for selections in (by_argument(widening), by_place(widening), by_value(widening)):
            chosen = agreeing(self._trials, selections)
            names, before = tuple(chosen), dict(self._trials.places)
            # from here on, `doubled` doubles these places alone
            self._trials.places |= {name: at for name, at in chosen.items() if isinstance(widening[name], tuple)}
            if names and self._fits(names) and self._trials.reach(names) >= least_reach:
                candidate = self._with_heads(names, self._trials.jointly_grown(names))
                if candidate[1] < math.inf and (not width or candidate[1] <= joint):
                    return candidate
            self._trials.places = before
        return width, joint

    def _feasible(self, unscaled: float) -> Iterator[tuple[float, Names]]:
        """Yield sets of arguments that the library accepts together and that cost less than `unscaled`, fewest first.

        The cost comes first in each pair. Larger sets are not tried once a set of some size doubles everything.
        """
        # A Llama of one key head: twice the width alone widens that head, whose size rotary tables fix.
        for name, neutral in itertools.product(self._found.breaking, self._found.neutral):
            names = _united((name,), neutral)
            cost = self._cost_of(names)
            if cost < unscaled:
                yield cost, names
        for count in range(1, _MOST_TOGETHER + 1):
            perfect = False
            for steps in self._promising(count):
                names = _united(*steps)
                cost = self._cost_of(names)
                perfect = perfect or cost == 0
                if cost < unscaled:
                    yield cost, names
            if perfect:
                return

    def _steps(self) -> list[Names]:
        return [*((name,) for name in self._found.widening), *self._found.paired]

    def _promising(self, count: int) -> list[tuple[Names, ...]]:
        """Return the sets of `count` steps that would cost least if each did together what it does alone."""
        sets = itertools.combinations(self._steps(), count)
        return sorted(sets, key=lambda steps: self._cost(self._foreseen(steps)))[:_BUILT]

    def _foreseen(self, steps: Iterable[Names]) -> Shapes:
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

    def _cost_of(self, names: Names) -> float:
        """Return the cost of doubled arguments; infinity if the library refuses them or they change what is fixed."""
        shapes = self._trials.doubled(names)
        if shapes is None or not shapes.keys() >= self._trials.shapes.keys():
            return math.inf
        return self._cost(shapes) if self._trials.keeps_what_is_fixed(shapes) else math.inf

    def _running_first(self, sets: Iterable[Names]) -> Iterator[tuple[Names, float]]:
        """Yield the sets of arguments that reach at least LEAST_REACH of the model, with their joint numbers.

        Those of an infinite joint number come last: each costs a trace per argument that may be what it lacks.
        """
        infinite = list[Names]()
        for names in sets:
            if max(self._trials.reach(names, by_size=by_size) for by_size in (True, False)) < LEAST_REACH:
                continue
            joint = self._trials.jointly_grown(names)
            if joint < math.inf:
                yield names, joint
            else:
                infinite.append(names)
        yield from ((names, math.inf) for names in infinite)

    def _with_heads(self, names: Names, joint: float) -> tuple[Names, float]:
        """Add arguments that keep the head size, so that attention meets fewer grown channels.

        Returns:
            The arguments, and their joint number.
        """
        for neutral in self._found.neutral:
            if joint == 0:
                break
            with_heads = _united(names, neutral)
            joint_with = self._trials.jointly_grown(with_heads)
            if joint_with < joint:
                names, joint = with_heads, joint_with
        if joint < math.inf:
            return names, joint
        # It does not run so: perhaps an argument is missing that has to be equal to one of these. One is tried at a
        # time, since no model is known that lacks two, and each pair would cost a trace.
        for step in self._steps():
            extended = _united(names, step)
            if extended != names and self._trials.jointly_grown(extended) == 0:
                return extended, 0.0
        return names, joint

    def _extended(self, names: Names, joint: float) -> tuple[Names, float]:
        """Add one step after the other, where more dimensions then double and the joint number does not rise."""
        cost = self._cost_of(names)
        for step in self._steps():
            extended = _united(names, step)
            if not cost or extended == names:
                continue
            lower = self._cost_of(extended)
            if lower < cost and self._trials.jointly_grown(extended) <= joint:
                names, cost = extended, lower
        return names, joint

    def _fits(self, names: Names) -> bool:
        """Return whether the model of doubled arguments has the same tensors, and keeps what is fixed."""
        shapes = self._trials.doubled(names)
        return shapes is not None and self._trials.keeps_tensors(shapes)


def _united(*names: Names) -> Names:
    """Return all of these arguments, each once."""
    return tuple(dict.fromkeys(itertools.chain(*names)))
