"""Which constructor arguments add blocks, and in which stages: found by doubling them one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from growtool.errors import CheckpointError
from growtool.library.building import Shapes
from growtool.library.paths import is_path
from growtool.library.values import Value, leaves
from growtool.recipe.target.added_blocks import adds_blocks, blocks_unlike, lengthens
from growtool.recipe.target.trials import Trials
from growtool.trace import Trace
from growtool.trace.pairing.stretches import Numbered, sequences, stretches

_ALONE = 24  # places of an argument that are tried one by one where the library refuses all together


class _Adding(NamedTuple):
    """What an argument does that adds blocks; `tensors` counts those of the model with it doubled."""

    closes: bool
    tensors: int


class Deepening:
    """The arguments that add blocks like those there are, or residual ones.

    Attributes:
        adding: argument -> what it does.
        against: argument that adds blocks of the same widths where another one falls -> that one, and its value.

    Args:
        trials: builds models.
        tracing: whether to trace deeper models as well: a block that none of the source's is like may be residual.
    """

    def __init__(self, trials: Trials, *, tracing: bool) -> None:
        self._trials, self._tracing = trials, tracing
        self._deeper: dict[tuple[str, object], Trace | None] = {}
        self._sequences = sequences(trials.shapes)
        self.adding: dict[str, _Adding] = {}
        self.against: dict[str, tuple[str, float]] = {}

    def arguments(self) -> dict[str, Value]:
        """Return the arguments and their values: those that add residual blocks first, then the one that adds most."""
        ranked = sorted(self.adding.items(), key=lambda item: (not item[1].closes, -item[1].tensors))
        return {name: self._trials.values[name] for name, _ in ranked}

    def apart(self) -> tuple[str, ...]:
        """Return arguments that each add blocks of their own; of several that add the same blocks the first."""
        chosen, added = list[str](), set[str]()
        for name in self.arguments():
            deeper = self._twice(name, self._trials.places.get(name)) or {}
            new = deeper.keys() - self._trials.shapes.keys()
            if added.isdisjoint(new):
                chosen.append(name)
                added |= new
        return tuple(chosen)

    def closes(self, names: Iterable[str]) -> bool:
        """Return whether the blocks that these arguments add can start closed."""
        return all(self.adding[name].closes for name in names)

    def adds(self, name: str, shapes: Shapes | None) -> bool:
        """Return whether an argument adds blocks, in some of its places at least; note it in `adding` if so.

        Args:
            name: of the argument.
            shapes: of the model with all of it doubled; None if its library refuses that.
        """
        places, several = self._growing_stages(name, shapes), isinstance(self._trials.values[name], tuple)
        if is_path(name) and places and not self._runs_with(name, places):
            # A VGG's list holds poolings, too, which add no tensors: repeated, they leave nothing of the image.
            alone = (place for place in places if self._adds_blocks(name, {place}))
            places = frozenset(place for place in alone if self._runs_with(name, {place}))
        if not places or not self._adds_blocks(name, places):
            return False
        if several and not self._closes(name, places):
            # Some of EfficientNet-Edge's stages have no shortcuts; only the others grow, if there are any.
            places = frozenset(place for place in places if self._closes(name, {place})) or places
        deeper = self._twice(name, places)
        if deeper is None:
            return False
        self.adding[name] = _Adding(self._closes(name, places), len(deeper))
        if several:
            self._trials.places[name] = places
        return True

    def adds_against(self, name: str, numbers: Mapping[str, Value]) -> bool:
        """Return whether a count adds blocks once another number falls as it rises; note both if so.

        A RegNet has its widths from how fast they rise from block to block: of twice as many blocks half as fast.

        Args:
            name: of the count.
            numbers: the arguments among which a number that falls is looked for.
        """
        shapes = self._trials.doubled([name])
        hopeless = shapes is not None and not lengthens(self._trials.shapes, shapes)
        if hopeless or not self._tracing or not isinstance(numbers[name], int):
            return False
        for other, number in numbers.items():
            if isinstance(number, float):
                self.against[name] = (other, number)
                if self.adds(name, self._twice(name, None)):
                    return True
                del self.against[name]
        return False

    def _twice(self, name: str, places: Collection[int] | None) -> Shapes | None:
        return self._trials.built(self._values(name, places))

    def _values(self, name: str, places: Collection[int] | None) -> dict[str, Value]:
        """Return the argument doubled in these places (None: all), and half of the number that falls with it."""
        falling = [self.against[name]] if name in self.against else []
        return {name: self._trials.twice_at(name, places), **{other: number / 2 for other, number in falling}}

    def _runs_with(self, name: str, places: Collection[int]) -> bool:
        """Return whether the model runs: numbers of a configuration need not fit each other."""
        return self._trials.runs(self._values(name, places))

    def _closes(self, name: str, places: Collection[int]) -> bool:
        """Return whether the blocks that an argument adds in these places are residual: they may start closed."""
        deeper = self._twice(name, places) or {}
        longer = [
            (self._sequences[prefix], sequence)
            for prefix, sequence in sequences(deeper).items()
            if prefix in self._sequences and len(sequence.indices) > len(self._sequences[prefix].indices)
        ]
        # New blocks are mostly like the last one of their stage: where that is residual, no deeper model is traced.
        if longer and all(f"{old.prefix}{old.indices[-1]}" in self._trials.trace.closable for old, _ in longer):
            return True
        trace = self._traced_deeper(name)
        return trace is not None and all(
            len(new.indices) - len(old.indices) == _closable(trace, new) - _closable(self._trials.trace, old)
            for old, new in longer
        )

    def _traced_deeper(self, name: str) -> Trace | None:
        """Return the trace of the model with all of this argument doubled, or None if it does not run."""
        key = name, self.against.get(name)
        if key not in self._deeper:
            self._deeper[key] = None
            with contextlib.suppress(CheckpointError):
                self._deeper[key] = self._trials.traced(self._values(name, None)) if self._tracing else None
        return self._deeper[key]

    def _growing_stages(self, name: str, shapes: Shapes | None) -> frozenset[int]:
        """Return the places in an argument whose numbers add blocks: all if they do together, else those that do alone.

        Args:
            name, shapes: see `adds`.
        """
        value = self._trials.values[name]
        numbers = leaves(value)
        if shapes is not None and self._adds_blocks(name, None):
            return frozenset(range(len(numbers)))
        hopeless = len(numbers) > _ALONE if shapes is None else not lengthens(self._trials.shapes, shapes)
        if not isinstance(value, tuple) or hopeless:
            return frozenset()
        counts = (place for place, number in enumerate(numbers) if isinstance(number, int) and number)
        return frozenset(place for place in counts if self._adds_blocks(name, {place}))

    def _adds_blocks(self, name: str, places: Collection[int] | None) -> bool:
        """Return whether an argument doubled in these places adds blocks like those there are, or residual ones."""
        deeper = self._twice(name, places)
        if deeper is None:
            return False
        before, after = self._read(deeper)
        if not adds_blocks(before, after, alike=False):
            return False
        if adds_blocks(before, after, alike=True):
            return True
        unlike = blocks_unlike(before, after)
        return bool(unlike) and self._residual(name).issuperset(unlike)

    def _read(self, other: Shapes) -> tuple[Shapes, Shapes]:
        """Return the source's and other shapes without the tensors that differ and that no forward pass reads."""
        before, read = self._trials.shapes, self._trials.trace.forward.read
        unread = {name for name, shape in before.items() if name not in read and other.get(name, shape) != shape}

        def without(shapes: Shapes) -> Shapes:
            return {name: shape for name, shape in shapes.items() if name not in unread}

        return without(before), without(other)

    def _residual(self, name: str) -> frozenset[str]:
        """Return the residual blocks, of the model with all of it doubled, that are like none of the source's."""
        trace = self._traced_deeper(name)
        longer = stretches(self._trials.trace, trace) if trace else []
        unlike = (f"{stretch.prefix}{j}" for stretch in longer for j, same in stretch.alike.items() if not same)
        return frozenset(path for path in unlike if trace and path in trace.exits)


def _closable(trace: Trace, blocks: Numbered) -> int:
    """Return how many of these blocks are residual."""
    return sum(f"{blocks.prefix}{index}" in trace.closable for index in blocks.indices)
