"""Which constructor arguments make a model wider or deeper, found by trying them.

No list of argument names: each number a constructor takes is doubled on the meta device, and what happens to the shapes
says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a sequence; an
argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from growtool.checkpoint import ModelSpec, build, input_size, runs
from growtool.checkpoint.paths import covers, is_path
from growtool.checkpoint.reach import OPEN, REPEATS, repeats_of
from growtool.coupling import Coupling, atoms, inside, pair, trace_model
from growtool.coupling.depth import sequences
from growtool.errors import CheckpointError
from growtool.recipe.added_blocks import adds_like_blocks, lengthens
from growtool.recipe.arguments import Value, as_lists, constructor_numbers, leaves, scaled_at
from growtool.recipe.closure import Closure
from growtool.recipe.nested import nested_numbers, repeatable_entries
from growtool.recipe.siblings import Shapes, shapes_of

_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
AXES = ("width", "depth")
LEAST_REACH = 0.5  # share of the model that has to grow for arguments to count as scaling it
_SLACK = 0.35  # how much of the way to double may be given up for arguments that leave attention alone
_COMPARED = 6  # sets of arguments compared so
_BUILT = 8  # sets of arguments of one size that are built, those that promise most
_ALONE = 24  # places of an argument that are tried one by one where timm refuses all together
_Numbers = Mapping[str, frozenset[int]]  # argument -> places among its numbers
_Number = tuple[str, int]
_JOINT = ("product", "softmax")


@dataclass(frozen=True, slots=True)
class Knobs:
    """Arguments of the constructor and their values in the source.

    Attributes:
        width: scaled together they widen every group that the constructor lets grow, heads by number.
        depth: arguments that add blocks like those there are, the one that adds most first.
        stages: of an argument that is a sequence, the places that do so, where not all do; a stage of one block, which
            changes the width or the resolution, has none like it and stays as it is, and so does the input of a layer
            after one of fixed width.
        reach: the share of the tensors that may grow and then do, 0 to 1.
        joint: how many products and softmaxes then run over grown channels, which no width operator keeps exact.
    """

    width: Mapping[str, Value]
    depth: Mapping[str, Value]
    joint: float = 0.0
    reach: float = 0.0
    stages: Mapping[str, frozenset[int]] = field(default_factory=dict)


def find_knobs(spec: ModelSpec, model: nn.Module, coupling: Coupling, axes: Collection[str] = AXES) -> Knobs:
    """Try every number of the constructor; by way of growtool's own entry point those in nested configurations, too.

    Args:
        spec: the source.
        model: its skeleton.
        coupling: its coupling.
        axes: what to look for, `width`, `depth` or both.
    """
    search = _Search(spec, model, coupling)
    search.try_each(_numbers(spec, model))
    width, joint = search.width() if "width" in axes else ({}, 0.0)
    scaled = "width" not in axes or (bool(width) and search.reach(width, by_size=False) >= LEAST_REACH)
    deepened = "depth" not in axes or bool(search.adding)
    if spec.architecture == OPEN and not (scaled and deepened):
        search.try_each(nested_numbers(spec))
    if not scaled:
        width, joint = search.further(width, joint)
    if spec.architecture == OPEN and not (deepened or search.adding):
        search.try_each(repeatable_entries(spec))
    reach = search.reach(width, by_size=False) if width else 0.0
    return Knobs(width, search.depth(), joint, reach, search.stages)


class _Search:
    def __init__(self, spec: ModelSpec, model: nn.Module, coupling: Coupling) -> None:
        self._spec, self._coupling = spec, coupling
        self._shapes = shapes_of(model)
        self._sequences = sequences(self._shapes)
        self._models: dict[tuple[tuple[str, Value], ...], nn.Module | None] = {}
        self._widening: dict[str, Value] = {}
        self._neutral: dict[str, Value] = {}
        self.adding: dict[str, tuple[tuple[bool, int], Value]] = {}
        self.stages: dict[str, frozenset[int]] = {}

    def try_each(self, numbers: Mapping[str, Value]) -> None:
        """Double each, and see what it does."""
        for name, value in numbers.items():
            if is_path(name) and any(covers(other, name) for other in (*self._widening, *self.adding)):
                continue
            shapes = self._doubled({name: value})
            if _is_count(value) and self._grows_nothing(shapes):  # heads are counts
                self._neutral[name] = value
            if shapes == self._shapes:
                continue
            if not self._adds(name, value, shapes) and self._widens(shapes) and not self._is_known(name, shapes):
                self._widening[name] = value

    def depth(self) -> dict[str, Value]:
        """The arguments that add blocks like those there are: residual ones first, then the one that adds most."""
        return {name: value for name, (_, value) in sorted(self.adding.items(), key=lambda item: item[1][0])}

    def _adds(self, name: str, value: Value, shapes: Shapes | None) -> bool:
        """Whether an argument adds blocks like those there are, in some of its places at least; noted if so."""
        places = self._growing_stages(name, value, shapes)
        if is_path(name) and places and not self._runs_with(name, value, places):
            places = frozenset(place for place in places if self._runs_with(name, value, {place}))
        partial = len(places) < len(leaves(value))
        deeper = self._built({name: _twice_at(value, places)}) if partial else shapes
        if not places or deeper is None or not adds_like_blocks(self._shapes, deeper):
            return False
        self.adding[name] = ((not self._is_residual(deeper), -len(deeper)), value)
        if isinstance(value, tuple):
            self.stages[name] = places
        return True

    def _runs_with(self, name: str, value: Value, places: Collection[int]) -> bool:
        """Whether the model runs: numbers of a configuration need not fit each other."""
        model = self._model({name: _twice_at(value, places)})
        return model is not None and runs(model)

    def _is_residual(self, deeper: Shapes) -> bool:
        """Whether the sequences that are longer end in residual blocks: these may start as if they were not there."""
        longer = [
            sequence
            for prefix, sequence in sequences(deeper).items()
            if prefix in self._sequences and len(sequence.indices) > len(self._sequences[prefix].indices)
        ]
        old = [self._sequences[sequence.prefix] for sequence in longer]
        return bool(old) and all(f"{sequence.prefix}{sequence.indices[-1]}" in self._coupling.exits for sequence in old)

    def _widens(self, shapes: Shapes | None) -> bool:
        return shapes is not None and not self._only_adds_blocks(shapes) and self._keeps_what_is_fixed(shapes)

    def _is_known(self, name: str, shapes: Shapes | None) -> bool:
        """Whether a path does what an argument does that was tried before."""
        return is_path(name) and any(shapes == self._doubled({other: v}) for other, v in self._widening.items())

    def _built(self, values: Mapping[str, Value]) -> Shapes | None:
        model = self._model(values)
        return None if model is None else shapes_of(model)

    def _model(self, values: Mapping[str, Value]) -> nn.Module | None:
        """The model with these arguments, None where timm refuses them."""
        key = tuple(sorted(values.items()))
        if key not in self._models:
            before = logging.root.manager.disable
            logging.disable()  # timm reports some refusals beside raising them
            try:
                found = build(self._spec.with_args(**{name: as_lists(value) for name, value in values.items()}))
            except CheckpointError:
                found = None
            finally:
                logging.disable(before)
            self._models[key] = found
        return self._models[key]

    def _twice(self, knobs: Mapping[str, Value]) -> dict[str, Value]:
        return {name: _twice_at(value, self.stages.get(name)) for name, value in knobs.items()}

    def _doubled(self, knobs: Mapping[str, Value]) -> Shapes | None:
        return self._built(self._twice(knobs))

    def _grows_nothing(self, shapes: Shapes | None) -> bool:
        """Whether shapes stay or shrink, as tables by head size do where there are more heads."""
        return (
            shapes is not None
            and shapes.keys() == self._shapes.keys()
            and all(
                len(old) == len(shapes[name]) and all(new <= size for new, size in zip(shapes[name], old, strict=True))
                for name, old in self._shapes.items()
            )
        )

    def _only_adds_blocks(self, shapes: Shapes) -> bool:
        return all(shapes.get(name) == shape for name, shape in self._shapes.items()) and all(
            name in self._shapes or self._in_new_block(name) for name in shapes
        )

    def _growing_stages(self, name: str, value: Value, shapes: Shapes | None) -> frozenset[int]:
        """The numbers of an argument that add blocks like those there are: all of them, or those that do alone."""
        numbers = leaves(value)
        if shapes is not None and adds_like_blocks(self._shapes, shapes):
            return frozenset(range(len(numbers)))
        found = set[int]()
        hopeless = len(numbers) > _ALONE if shapes is None else not lengthens(self._shapes, shapes)
        if not isinstance(value, tuple) or hopeless:
            return frozenset()
        for place, number in enumerate(numbers):
            if isinstance(number, int) and number:
                deeper = self._built({name: _twice_at(value, frozenset({place}))})
                if deeper is not None and adds_like_blocks(self._shapes, deeper):
                    found.add(place)
        return frozenset(found)

    def _in_new_block(self, name: str) -> bool:
        found = ((inside(name, prefix), sequence) for prefix, sequence in self._sequences.items())
        return any(index is not None and index not in sequence.indices for index, sequence in found)

    def _keeps_what_is_fixed(self, shapes: Shapes) -> bool:
        return all(
            old == new or any(atom.fixed is None for atom in atoms(axis))
            for name, shape in self._shapes.items()
            for old, new, axis in zip(shape, shapes.get(name, shape), self._coupling.tensors[name], strict=False)
        )

    def width(self) -> tuple[dict[str, Value], float]:
        """The arguments that together bring most dimensions nearest to double, and what grows jointly with them.

        Arguments that are nearly as good are preferred if attention (products, softmax) then meets no grown channels.
        """
        nothing = self._cost(self._shapes)
        feasible = sorted(self._feasible(nothing), key=lambda found: found[0])
        near = [knobs for cost, knobs in feasible if cost <= feasible[0][0] + _SLACK * nothing][:_COMPARED]
        best: tuple[dict[str, Value], float] = ({}, 0.0)
        for knobs in near:
            if self.reach(knobs, by_size=True) >= LEAST_REACH or self.reach(knobs, by_size=False) >= LEAST_REACH:
                found = self._with_heads(knobs)
                if not best[0] or found[1] < best[1]:
                    best = found
                if found[1] == 0:
                    break
        return best

    def further(self, width: dict[str, Value], joint: float) -> tuple[dict[str, Value], float]:
        """What agrees on being twice as wide, taken argument by argument, number by number or value by value.

        Args:
            width: arguments that reach little of the model, kept where nothing reaches further.
            joint: what grows jointly with them.
        """
        least = self.reach(width, by_size=False) if width else 0.0
        for groups in (self._arguments(), self._places(), self._equal()):
            chosen = self._agreeing(groups)
            knobs = {name: self._widening[name] for name in chosen}
            before = dict(self.stages)
            self.stages |= {name: at for name, at in chosen.items() if isinstance(knobs[name], tuple)}
            if knobs and self._grows_alike(knobs) and self.reach(knobs, by_size=False) >= max(least, LEAST_REACH):
                found = self._with_heads(knobs)
                if found[1] < math.inf and (not width or found[1] <= joint):
                    return found
            self.stages = before
        return width, joint

    def _grows_alike(self, knobs: Mapping[str, Value]) -> bool:
        shapes = self._doubled(knobs)
        return shapes is not None and shapes.keys() == self._shapes.keys() and self._keeps_what_is_fixed(shapes)

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
            shapes = self._built({name: _twice_at(self._widening[name], places) for name, places in group.items()})
            if shapes is not None and shapes.keys() == self._shapes.keys() and self._only_grows(shapes):
                feasible[key] = shapes
        closure = Closure(self._shapes, self._coupling.tensors, feasible)
        chosen: dict[str, frozenset[int]] = {}
        for key in closure.nearest(
            closure.agreeing(feasible), kind=lambda key: key[0] or key if isinstance(key, tuple) else key
        ):
            for name, places in groups[key].items():
                chosen[name] = chosen.get(name, frozenset()) | places
        return chosen

    def _only_grows(self, shapes: Shapes) -> bool:
        return self._keeps_what_is_fixed(shapes) and all(
            new >= old for name, shape in self._shapes.items() for old, new in zip(shape, shapes[name], strict=True)
        )

    def _feasible(self, nothing: float) -> Iterator[tuple[float, dict[str, Value]]]:
        """Sets of arguments that timm accepts together, with their cost, fewest first."""
        for together in range(1, _MOST_TOGETHER + 1):
            perfect = False
            for names in self._promising(together):
                knobs = {name: self._widening[name] for name in names}
                shapes = self._doubled(knobs)
                if shapes is not None and shapes.keys() >= self._shapes.keys() and self._keeps_what_is_fixed(shapes):
                    cost = self._cost(shapes)
                    perfect = perfect or cost == 0
                    if cost < nothing:
                        yield cost, knobs
            if perfect:
                return

    def _promising(self, together: int) -> list[tuple[str, ...]]:
        """The sets of so many arguments that would cost least if each did together what it does alone."""
        sets = itertools.combinations(self._widening, together)
        return sorted(sets, key=lambda names: self._cost(self._foreseen(names)))[:_BUILT]

    def _foreseen(self, names: Iterable[str]) -> Shapes:
        """The shapes that arguments would give together if each multiplied sizes as it does alone."""
        shapes = dict(self._shapes)
        for name in names:
            alone = self._doubled({name: self._widening[name]}) or {}
            for tensor, shape in alone.items():
                old, now = self._shapes.get(tensor), shapes.get(tensor)
                if old is None or now is None or len(old) != len(shape):
                    shapes[tensor] = shape
                else:
                    shapes[tensor] = tuple(a * b // c if c else a for a, b, c in zip(now, shape, old, strict=True))
        return shapes

    def reach(self, knobs: Mapping[str, Value], *, by_size: bool) -> float:
        """The share of the tensors that may grow and grow with these arguments, 0 to 1; large ones count for more."""
        shapes = self._doubled(knobs) if knobs else self._shapes
        growable = {
            name: math.prod(shape) if by_size else 1
            for name, shape in self._shapes.items()
            if any(atom.fixed is None for axis in self._coupling.tensors[name] for atom in atoms(axis))
        }
        grown = sum(size for name, size in growable.items() if shapes and shapes[name] != self._shapes[name])
        return grown / max(sum(growable.values()), 1)

    def _cost(self, shapes: Shapes) -> float:
        """How far the dimensions that may grow are from double; a tensor that the source lacks counts as one more."""
        cost = float(len(shapes) - len(self._shapes))
        for name, shape in self._shapes.items():
            for old, new, axis in zip(shape, shapes[name], self._coupling.tensors[name], strict=True):
                if any(atom.fixed is None for atom in atoms(axis)):
                    cost += abs(new / old - 2)
        return cost

    def _with_heads(self, knobs: dict[str, Value]) -> tuple[dict[str, Value], float]:
        """Add arguments that keep the head size: those that rid attention of grown channels. How many are left."""
        grown = self._jointly_grown(knobs)
        for name, value in self._neutral.items():
            if grown == 0:
                break
            left = self._jointly_grown({**knobs, name: value})
            if left < grown:
                knobs, grown = {**knobs, name: value}, left
        return knobs, grown

    def _jointly_grown(self, knobs: Mapping[str, Value]) -> float:
        """How many products and softmaxes run over channels that grow with these arguments."""
        model = self._model(self._twice(knobs))
        if model is None:
            return float("inf")
        try:
            target = trace_model(model, input_size(model))
        except CheckpointError:
            return float("inf")
        paired, problems = pair(self._coupling, target, lambda name: name)
        if problems:
            return float("inf")
        grown = {
            growth.target
            for axes in paired.values()
            for axis in axes
            for growth in axis.growths()
            if growth.sizes[0] != growth.sizes[1]
        }
        return sum(m.kind in _JOINT and any(a in grown for a in atoms(m.axis)) for m in target.mixings)


def _twice_at(value: Value, places: Collection[int] | None) -> Value:
    return scaled_at(value, 2, places)


def _is_count(value: Value) -> bool:
    return all(isinstance(part, int) for part in leaves(value))


def _numbers(spec: ModelSpec, model: nn.Module) -> dict[str, Value]:
    """The constructor's numbers; by way of growtool's own entry point the blocks of each stage as well."""
    found = constructor_numbers(spec, model)
    repeats = repeats_of(spec) if spec.architecture == OPEN else None
    return found if repeats is None else {**found, REPEATS: repeats}
