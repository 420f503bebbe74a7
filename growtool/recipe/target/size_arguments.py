"""Which constructor arguments make a model wider or deeper, found by trying them.

There is no list of argument names. Each number that a constructor takes is doubled on the meta device, and what happens
to the shapes says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a
sequence; an argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from growtool.errors import CheckpointError
from growtool.library.building import Shapes
from growtool.library.paths import covers, is_path
from growtool.library.values import Value, leaves, scaled_at
from growtool.recipe.target.deepening import Deepening
from growtool.recipe.target.trials import Built, Trials
from growtool.recipe.target.widening import LEAST_REACH, Found, Widening
from growtool.recipe.traced_model import TracedModel
from growtool.trace import inside, pair
from growtool.trace.pairing.stretches import sequences

AXES = ("width", "depth")


@dataclass(frozen=True, slots=True)
class SizeArguments:
    """Arguments of the constructor and their values in the source.

    Attributes:
        width: scaled together they widen every group that the constructor lets grow, heads by number.
        depth: each adds blocks like those there are, or residual ones: first those that add residual blocks, then the
            one that adds most.
        together: the `depth` arguments that a factor scales: the first, or one for each stack of blocks.
        stages: argument that is a sequence -> the places in it that are scaled, counted through `leaves`; all places of
            arguments that are absent. Numbers at other places stay: the input of a layer after one of fixed width, a
            stage whose further blocks would be neither like those it has nor residual, and a stage of blocks without a
            residual connection where other stages have them.
        closes: whether the blocks that `together` add are residual, so that they can start closed.
        against: argument that adds blocks -> another one, with its value, that falls by the same factor.
        unkept: if there is no `width`, a clause on an argument that would widen the model and what it would change of
            what has to stay; empty if there is no such argument.
        reach: the share of the tensors that may grow that `width` makes grow, 0 to 1.
        joint: how many products and softmaxes run over channels that `width` makes grow, which no width operator keeps
            exact.
    """

    width: Mapping[str, Value]
    depth: Mapping[str, Value]
    together: tuple[str, ...] = ()
    joint: float = 0.0
    reach: float = 0.0
    closes: bool = True
    stages: Mapping[str, frozenset[int]] = field(default_factory=dict)
    against: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    unkept: str = ""

    def numbers(self, name: str) -> dict[int, int | float]:
        """Return the numbers of an argument that are scaled, by their places in it."""
        numbers = {place: part for place, part in enumerate(leaves(self._value(name))) if not isinstance(part, str)}
        return {place: part for place, part in numbers.items() if place in self.stages.get(name, numbers)}

    def counts(self, names: Iterable[str]) -> list[tuple[str, int]]:
        """Return the whole numbers of these arguments that are scaled, each with its argument."""
        return [(name, n) for name in names for n in self.numbers(name).values() if isinstance(n, int)]

    def scaled(self, name: str, factor: float) -> Value:
        """Return the value of an argument with the numbers that are scaled times a factor."""
        return scaled_at(self._value(name), factor, self.stages.get(name))

    def _value(self, name: str) -> Value:
        return self.width[name] if name in self.width else self.depth[name]


def find_size_arguments(source: TracedModel, axes: Collection[str] = AXES, built: Built | None = None) -> SizeArguments:
    """Find the arguments by trying every number of the constructor, then further ones of its library as far as needed.

    Args:
        source: the small model.
        axes: what to look for, `width`, `depth` or both.
        built: models that an earlier search for the same source built, to which those of this one are added.
    """
    library, trials = source.library, Trials(source, built)
    deepening, found = Deepening(trials, tracing="depth" in axes), Found()
    search, widening = _Search(trials, deepening, found), Widening(trials, found)
    search.try_each(library.numbers(source.spec, source.model))
    width, joint = widening.width() if "width" in axes else ((), 0.0)
    reaches = bool(width) and joint < math.inf and trials.reach(width) >= LEAST_REACH
    lacks_width = "width" in axes and not reaches
    lacks_depth = "depth" in axes and not deepening.adding
    # Each further try costs a model, and an opened spec has many numbers inside its arguments.
    if lacks_width or lacks_depth:
        search.try_each(library.nested_numbers(source.spec))
    if lacks_width:
        width, joint = widening.further(width, joint)
    if lacks_depth and not deepening.adding:
        search.try_each(library.entry_repeats(source.spec))
    depth = deepening.arguments()
    together = deepening.apart() if library.towers else tuple(depth)[:1]
    return SizeArguments(
        width={name: trials.values[name] for name in width},
        depth=depth,
        together=together,
        joint=joint,
        reach=trials.reach(width) if width else 0.0,
        closes=deepening.closes(together),
        stages=trials.places,
        against=deepening.against,
        unkept=_unkept(trials, found.breaking) if "width" in axes and not width else "",
    )


def _unkept(trials: Trials, breaking: Iterable[str]) -> str:
    """Return a clause on the first argument that would widen the model and what it changes that has to stay, or ""."""
    for name in breaking:
        with contextlib.suppress(CheckpointError):
            target = trials.traced(trials.twice([name]))
            problems = pair(trials.trace, target, lambda tensor: tensor)[1] if target else []
            if problems:
                return f"with twice the {name}, {problems[0][0]}: {problems[0][1]}"
    return ""


class _Search:
    """Sorts arguments by what they do when they are doubled."""

    def __init__(self, trials: Trials, deepening: Deepening, found: Found) -> None:
        self._trials, self._deepening, self._found = trials, deepening, found
        self._sequences = sequences(trials.shapes)
        self._refused: list[str] = []  # counts that the library refuses to double alone

    def try_each(self, numbers: Mapping[str, Value]) -> None:
        """Double each of these arguments, and sort it by what it does."""
        self._trials.values |= numbers
        found = self._found
        for name, value in numbers.items():
            if is_path(name) and any(covers(other, name) for other in (*found.widening, *self._deepening.adding)):
                continue
            shapes = self._trials.doubled([name])
            if _is_count(value) and self._grows_nothing(shapes):  # heads are counts
                found.neutral.append((name,))
            if shapes is None and not is_path(name) and isinstance(value, int):
                self._refused.append(name)
            if shapes == self._trials.shapes:
                continue
            adds = self._deepening.adds(name, shapes)
            if not adds and self._widens(shapes) and not self._is_known(name, shapes):
                found.widening.append(name)
            if self._breaks(name, shapes):
                found.breaking.append(name)
        if not self._deepening.adding:
            for name in numbers:
                if self._deepening.adds_against(name, numbers) and name in found.widening:
                    found.widening.remove(name)  # a RegNet's `depth` alone makes its last blocks wider, too
        self._try_together()

    def _try_together(self) -> None:
        """Double, two at a time, counts that the library refuses alone (heads of queries and of keys)."""
        values, found = self._trials.values, self._found
        for both in itertools.combinations(self._refused, 2):
            if both in (*found.neutral, *found.paired):
                continue
            shapes = self._trials.doubled(both)
            if self._grows_nothing(shapes):
                if values[both[0]] == values[both[1]]:
                    found.neutral.append(both)
            elif self._widens(shapes):
                found.paired.append(both)

    def _widens(self, shapes: Shapes | None) -> bool:
        return shapes is not None and not self._only_adds_blocks(shapes) and self._trials.keeps_what_is_fixed(shapes)

    def _breaks(self, name: str, shapes: Shapes | None) -> bool:
        """Return whether the argument widens much of the model, and changes what is fixed with it."""
        return (
            shapes is not None
            and shapes.keys() >= self._trials.shapes.keys()
            and not self._trials.keeps_what_is_fixed(shapes)
            and self._trials.reach([name]) >= LEAST_REACH
        )

    def _is_known(self, name: str, shapes: Shapes | None) -> bool:
        """Return whether a path does the same as an argument that is known to widen the model."""
        return is_path(name) and any(shapes == self._trials.doubled([other]) for other in self._found.widening)

    def _grows_nothing(self, shapes: Shapes | None) -> bool:
        """Return whether no tensor grows; tables by head size shrink where there are more heads."""
        before = self._trials.shapes
        return (
            shapes is not None
            and shapes.keys() == before.keys()
            and all(
                len(old) == len(shapes[name]) and all(new <= size for new, size in zip(shapes[name], old, strict=True))
                for name, old in before.items()
            )
        )

    def _only_adds_blocks(self, shapes: Shapes) -> bool:
        """Return whether every tensor of the source stays, and all further ones lie in further blocks of a sequence."""
        return all(shapes.get(name) == shape for name, shape in self._trials.shapes.items()) and all(
            name in self._trials.shapes or self._in_new_block(name) for name in shapes
        )

    def _in_new_block(self, name: str) -> bool:
        indices = ((inside(name, prefix), sequence) for prefix, sequence in self._sequences.items())
        return any(index is not None and index not in sequence.indices for index, sequence in indices)


def _is_count(value: Value) -> bool:
    return all(isinstance(part, int) for part in leaves(value))
