"""Which constructor arguments make a model wider or deeper, found by trying them.

No list of argument names: each number a constructor takes is doubled on the meta device, and what happens to the shapes
says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a sequence; an
argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, library_of
from growtool.library.building import Shapes
from growtool.library.paths import covers, is_path
from growtool.library.values import Value, leaves
from growtool.recipe.target.added_blocks import adds_blocks, blocks_unlike, lengthens
from growtool.recipe.target.trials import Built, Trials, twice_at
from growtool.recipe.target.widening import LEAST_REACH, Widening
from growtool.trace import Trace, inside
from growtool.trace.pairing.stretches import Numbered, sequences, stretches

AXES = ("width", "depth")
_ALONE = 24  # places of an argument that are tried one by one where the library refuses all together


@dataclass(frozen=True, slots=True)
class SizeArguments:
    """Arguments of the constructor and their values in the source.

    Attributes:
        width: scaled together they widen every group that the constructor lets grow, heads by number.
        depth: arguments that add blocks like those there are, or residual ones, the one that adds most first.
        together: those of them that a factor scales: the first, or one for each stack of blocks.
        stages: of an argument that is a sequence, the places that do so, where not all do; a stage whose further blocks
            are neither like those it has nor residual stays as it is, one of which they are like those it has and not
            residual where others are, and the input of a layer after one of fixed width.
        closes: whether the blocks that they add can start closed: they are residual.
        reach: the share of the tensors that may grow and then do, 0 to 1.
        joint: how many products and softmaxes then run over grown channels, which no width operator keeps exact.
    """

    width: Mapping[str, Value]
    depth: Mapping[str, Value]
    together: tuple[str, ...] = ()
    joint: float = 0.0
    reach: float = 0.0
    closes: bool = True
    stages: Mapping[str, frozenset[int]] = field(default_factory=dict)


def find_size_arguments(
    spec: ModelSpec,
    model: nn.Module,
    trace: Trace,
    axes: Collection[str] = AXES,
    built: Built | None = None,
) -> SizeArguments:
    """Try every number of the constructor; of an opened spec those inside its arguments, too.

    Args:
        spec: the source.
        model: its skeleton.
        trace: its trace.
        axes: what to look for, `width`, `depth` or both.
        built: models that an earlier search for the same source built; those of this one are put there.
    """
    library, trials = library_of(spec), Trials(spec, model, trace, built)
    search = _Search(trials, deepening="depth" in axes)
    wider = Widening(trials, search.widening, search.paired, search.neutral, search.breaking)
    search.try_each(library.numbers(spec, model))
    width, joint = wider.width() if "width" in axes else ({}, 0.0)
    reached = bool(width) and joint < math.inf and trials.reach(width, by_size=False) >= LEAST_REACH
    scaled = "width" not in axes or reached
    deepened = "depth" not in axes or bool(search.adding)
    if not (scaled and deepened):
        search.try_each(library.inner_numbers(spec))
    if not scaled:
        width, joint = wider.further(width, joint)
    if not (deepened or search.adding):
        search.try_each(library.entry_counts(spec))
    reach = trials.reach(width, by_size=False) if width else 0.0
    depth = search.depth()
    together = search.apart(depth) if library.towers else tuple(depth)[:1]
    return SizeArguments(width, depth, together, joint, reach, search.closes(together), trials.places)


class _Search:
    def __init__(self, trials: Trials, *, deepening: bool) -> None:
        self._trials, self._deepening = trials, deepening
        self._deeper: dict[str, Trace | None] = {}
        self._sequences = sequences(trials.shapes)
        self.widening: dict[str, Value] = {}
        self.paired: list[Mapping[str, Value]] = []
        self.neutral: list[Mapping[str, Value]] = []
        self.refused: dict[str, Value] = {}
        self.breaking: dict[str, Value] = {}
        self.adding: dict[str, tuple[tuple[bool, int], Value]] = {}

    def try_each(self, numbers: Mapping[str, Value]) -> None:
        """Double each, and see what it does."""
        for name, value in numbers.items():
            if is_path(name) and any(covers(other, name) for other in (*self.widening, *self.adding)):
                continue
            shapes = self._trials.doubled({name: value})
            if _is_count(value) and self._grows_nothing(shapes):  # heads are counts
                self.neutral.append({name: value})
            if shapes is None and not is_path(name):
                self.refused[name] = value
            if shapes == self._trials.shapes:
                continue
            if not self._adds(name, value, shapes) and self._widens(shapes) and not self._is_known(name, shapes):
                self.widening[name] = value
            if self._breaks(name, value, shapes):
                self.breaking[name] = value
        self._try_together()

    def _try_together(self) -> None:
        """Double counts that the library refuses alone and takes together (heads, of queries and of keys)."""
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

    def depth(self) -> dict[str, Value]:
        """The arguments that add blocks: residual ones like those there are first, then the one that adds most."""
        return {name: value for name, (_, value) in sorted(self.adding.items(), key=lambda item: item[1][0])}

    def apart(self, depth: Iterable[str]) -> tuple[str, ...]:
        """Arguments that each add blocks of their own, of several that add the same the first."""
        chosen, added = list[str](), set[str]()
        for name in depth:
            own = (self._trials.doubled({name: self.adding[name][1]}) or {}).keys() - self._trials.shapes.keys()
            if added.isdisjoint(own):
                chosen.append(name)
                added |= own
        return tuple(chosen)

    def _adds(self, name: str, value: Value, shapes: Shapes | None) -> bool:
        """Whether an argument adds blocks, in some of its places at least; noted if so."""
        places = self._growing_stages(name, value, shapes)
        if is_path(name) and places and not self._runs_with(name, value, places):
            places = frozenset(place for place in places if self._runs_with(name, value, {place}))
        if not places:
            return False
        if not self._adds_blocks(name, value, places):
            return False
        if isinstance(value, tuple) and not self._closes(name, value, places):
            places = frozenset(place for place in places if self._closes(name, value, {place})) or places
        deeper = self._trials.built({name: twice_at(value, places)})
        if deeper is None:
            return False
        self.adding[name] = ((not self._closes(name, value, places), -len(deeper)), value)
        if isinstance(value, tuple):
            self._trials.places[name] = places
        return True

    def _runs_with(self, name: str, value: Value, places: Collection[int]) -> bool:
        """Whether the model runs: numbers of a configuration need not fit each other."""
        return self._trials.runs({name: twice_at(value, places)})

    def closes(self, names: Iterable[str]) -> bool:
        """Whether the blocks that arguments add can start closed."""
        return all(not self.adding[name][0][0] for name in names)

    def _closes(self, name: str, value: Value, places: Collection[int]) -> bool:
        """Whether the blocks that an argument adds in these places are residual: they may start as if not there."""
        deeper = self._trials.built({name: twice_at(value, places)}) or {}
        longer = [
            (self._sequences[prefix], sequence)
            for prefix, sequence in sequences(deeper).items()
            if prefix in self._sequences and len(sequence.indices) > len(self._sequences[prefix].indices)
        ]
        if longer and all(f"{old.prefix}{old.indices[-1]}" in self._trials.trace.exits for old, _ in longer):
            return True
        trace = self._traced_deeper(name, value)
        return trace is not None and all(
            len(new.indices) - len(old.indices) == _exits(trace, new) - _exits(self._trials.trace, old)
            for old, new in longer
        )

    def _traced_deeper(self, name: str, value: Value) -> Trace | None:
        """The model with this argument doubled; None where it does not run."""
        if name not in self._deeper:
            self._deeper[name] = None
            with contextlib.suppress(CheckpointError):
                self._deeper[name] = self._trials.traced({name: twice_at(value, None)}) if self._deepening else None
        return self._deeper[name]

    def _widens(self, shapes: Shapes | None) -> bool:
        return shapes is not None and not self._only_adds_blocks(shapes) and self._trials.keeps_what_is_fixed(shapes)

    def _breaks(self, name: str, value: Value, shapes: Shapes | None) -> bool:
        """Whether it widens much of the model, and changes what is fixed with it."""
        return (
            shapes is not None
            and shapes.keys() >= self._trials.shapes.keys()
            and not self._trials.keeps_what_is_fixed(shapes)
            and self._trials.reach({name: value}, by_size=False) >= LEAST_REACH
        )

    def _is_known(self, name: str, shapes: Shapes | None) -> bool:
        """Whether a path does what an argument does that was tried before."""
        return is_path(name) and any(shapes == self._trials.doubled({other: v}) for other, v in self.widening.items())

    def _grows_nothing(self, shapes: Shapes | None) -> bool:
        """Whether shapes stay or shrink, as tables by head size do where there are more heads."""
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
        return all(shapes.get(name) == shape for name, shape in self._trials.shapes.items()) and all(
            name in self._trials.shapes or self._in_new_block(name) for name in shapes
        )

    def _growing_stages(self, name: str, value: Value, shapes: Shapes | None) -> frozenset[int]:
        """The numbers of an argument that add blocks: all of them, or those that do alone."""
        numbers = leaves(value)
        if shapes is not None and self._adds_blocks(name, value, None):
            return frozenset(range(len(numbers)))
        found = set[int]()
        hopeless = len(numbers) > _ALONE if shapes is None else not lengthens(self._trials.shapes, shapes)
        if not isinstance(value, tuple) or hopeless:
            return frozenset()
        for place, number in enumerate(numbers):
            if isinstance(number, int) and number and self._adds_blocks(name, value, {place}):
                found.add(place)
        return frozenset(found)

    def _adds_blocks(self, name: str, value: Value, places: Collection[int] | None) -> bool:
        """Whether an argument doubled in these places adds blocks like those there are, or ones that start closed."""
        deeper = self._trials.built({name: twice_at(value, places)})
        if deeper is None:
            return False
        before, after = self._read(deeper)
        if not adds_blocks(before, after, alike=False):
            return False
        if adds_blocks(before, after, alike=True):
            return True
        added = blocks_unlike(before, after)
        return bool(added) and self._residual(name, value).issuperset(added)

    def _read(self, other: Shapes) -> tuple[Shapes, Shapes]:
        """The source's shapes and others, without tensors that differ and that no forward pass reads."""
        own, read = self._trials.shapes, self._trials.trace.forward.read
        unread = {name for name, shape in own.items() if name not in read and other.get(name, shape) != shape}

        def left(shapes: Shapes) -> Shapes:
            return {name: shape for name, shape in shapes.items() if name not in unread}

        return left(own), left(other)

    def _residual(self, name: str, value: Value) -> frozenset[str]:
        """Blocks of the model with this argument doubled that are like none of the source's and can start closed."""
        trace = self._traced_deeper(name, value)
        found = stretches(self._trials.trace, trace) if trace else []
        paths = (f"{stretch.prefix}{j}" for stretch in found for j, same in stretch.alike.items() if not same)
        return frozenset(path for path in paths if trace and path in trace.exits)

    def _in_new_block(self, name: str) -> bool:
        found = ((inside(name, prefix), sequence) for prefix, sequence in self._sequences.items())
        return any(index is not None and index not in sequence.indices for index, sequence in found)


def _exits(trace: Trace, blocks: Numbered) -> int:
    return sum(f"{blocks.prefix}{index}" in trace.exits for index in blocks.indices)


def _is_count(value: Value) -> bool:
    return all(isinstance(part, int) for part in leaves(value))
