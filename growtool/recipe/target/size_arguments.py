"""Which constructor arguments make a model wider or deeper, found by trying them.

There is no list of argument names. Each number that a constructor takes is doubled on the meta device, and what happens
to the shapes says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a
sequence; an argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from growtool.errors import CheckpointError
from growtool.library.building import Shapes
from growtool.library.paths import covers, is_path
from growtool.library.values import Value, leaves
from growtool.recipe.target.deepening import Deepening
from growtool.recipe.target.trials import Built, Trials
from growtool.recipe.target.widening import LEAST_REACH, Widening
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


def find_size_arguments(source: TracedModel, axes: Collection[str] = AXES, built: Built | None = None) -> SizeArguments:
    """Find the arguments by trying every number of the constructor, then further ones of its library as far as needed.

    Args:
        source: the small model.
        axes: what to look for, `width`, `depth` or both.
        built: models that an earlier search for the same source built, to which those of this one are added.
    """
    library, trials = source.library, Trials(source, built)
    deepening = Deepening(trials, tracing="depth" in axes)
    search = _Search(trials, deepening)
    widening = Widening(trials, search.widening, search.paired, search.neutral, search.breaking)
    search.try_each(library.numbers(source.spec, source.model))
    width, joint = widening.width() if "width" in axes else ({}, 0.0)
    reaches = bool(width) and joint < math.inf and trials.reach(width, by_size=False) >= LEAST_REACH
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
        width=width,
        depth=depth,
        together=together,
        joint=joint,
        reach=trials.reach(width, by_size=False) if width else 0.0,
        closes=deepening.closes(together),
        stages=trials.places,
        against=deepening.against,
        unkept=_unkept(trials, search.breaking) if "width" in axes and not width else "",
    )


def _unkept(trials: Trials, breaking: Mapping[str, Value]) -> str:
    """Return a clause on the first argument that would widen the model and what it changes that has to stay, or ""."""
    for name, value in breaking.items():
        with contextlib.suppress(CheckpointError):
            target = trials.traced(trials.twice({name: value}))
            problems = pair(trials.trace, target, lambda tensor: tensor)[1] if target else []
            if problems:
                return f"with twice the {name}, {problems[0][0]}: {problems[0][1]}"
    return ""


class _Search:
    """What each argument does when it is doubled.

    Attributes:
        widening: arguments that widen the model alone.
        paired: two arguments each that widen it together, and that the library refuses to double alone.
        neutral: counts that make no tensor larger (numbers of heads), alone or two that the library takes together.
        refused: arguments that the library refuses to double alone.
        breaking: arguments that widen much of the model and change what is fixed.
    """

    def __init__(self, trials: Trials, deepening: Deepening) -> None:
        self._trials, self._deepening = trials, deepening
        self._sequences = sequences(trials.shapes)
        self.widening: dict[str, Value] = {}
        self.paired: list[Mapping[str, Value]] = []
        self.neutral: list[Mapping[str, Value]] = []
        self.refused: dict[str, Value] = {}
        self.breaking: dict[str, Value] = {}

    def try_each(self, numbers: Mapping[str, Value]) -> None:
        """Double each of these arguments, and sort it by what it does."""
        for name, value in numbers.items():
            if is_path(name) and any(covers(other, name) for other in (*self.widening, *self._deepening.adding)):
                continue
            shapes = self._trials.doubled({name: value})
            if _is_count(value) and self._grows_nothing(shapes):  # heads are counts
                self.neutral.append({name: value})
            if shapes is None and not is_path(name):
                self.refused[name] = value
            if shapes == self._trials.shapes:
                continue
            adds = self._deepening.adds(name, value, shapes)
            if not adds and self._widens(shapes) and not self._is_known(name, shapes):
                self.widening[name] = value
            if self._breaks(name, value, shapes):
                self.breaking[name] = value
        if not self._deepening.adding:
            for name, value in numbers.items():
                if self._deepening.adds_against(name, value, numbers):
                    self.widening.pop(name, None)  # a RegNet's `depth` alone makes its last blocks wider, too
        self._try_together()

    def _try_together(self) -> None:
        """Double, two at a time, counts that the library refuses alone (heads of queries and of keys)."""
        counts = [(name, value) for name, value in self.refused.items() if isinstance(value, int)]
        for (name, value), (other, second) in itertools.combinations(counts, 2):
            both = {name: value, other: second}
            if both in (*self.neutral, *self.paired):
                continue
            shapes = self._trials.doubled(both)
            if self._grows_nothing(shapes):
                if value == second:
                    self.neutral.append(both)
            elif self._widens(shapes):
                self.paired.append(both)

    def _widens(self, shapes: Shapes | None) -> bool:
        return shapes is not None and not self._only_adds_blocks(shapes) and self._trials.keeps_what_is_fixed(shapes)

    def _breaks(self, name: str, value: Value, shapes: Shapes | None) -> bool:
        """Return whether the argument widens much of the model, and changes what is fixed with it."""
        return (
            shapes is not None
            and shapes.keys() >= self._trials.shapes.keys()
            and not self._trials.keeps_what_is_fixed(shapes)
            and self._trials.reach({name: value}, by_size=False) >= LEAST_REACH
        )

    def _is_known(self, name: str, shapes: Shapes | None) -> bool:
        """Return whether a path does the same as an argument that is known to widen the model."""
        return is_path(name) and any(shapes == self._trials.doubled({other: v}) for other, v in self.widening.items())

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
