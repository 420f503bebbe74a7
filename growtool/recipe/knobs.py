"""Which constructor arguments make a model wider or deeper, found by trying them.

No list of argument names: each number a constructor takes is doubled on the meta device, and what happens to the shapes
says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a sequence; an
argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from growtool.checkpoint import ModelSpec, build, input_size
from growtool.checkpoint.reach import OPEN, REPEATS, repeats_of
from growtool.coupling import Coupling, atoms, inside, pair, trace_model
from growtool.coupling.depth import sequences
from growtool.errors import CheckpointError
from growtool.recipe.added_blocks import adds_like_blocks
from growtool.recipe.arguments import Value, as_lists, constructor_numbers, leaves, scaled, with_leaves
from growtool.recipe.siblings import Shapes, shapes_of

_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
_LEAST_REACH = 0.5  # share of the parameters that has to grow for arguments to count as scaling the model
_SLACK = 0.35  # how much of the way to double may be given up for arguments that leave attention alone
_COMPARED = 6  # sets of arguments compared so
_BUILT = 8  # sets of arguments of one size that are built, those that promise most
_JOINT = ("product", "softmax")


@dataclass(frozen=True, slots=True)
class Knobs:
    """Arguments of the constructor and their values in the source.

    Attributes:
        width: scaled together they widen every group that the constructor lets grow, heads by number.
        depth: arguments that add blocks like those there are, the one that adds most first.
        stages: of a depth argument that is a sequence, the places that do so; a stage of one block, which changes the
            width or the resolution, has none like it and stays as it is.
        joint: how many products and softmaxes then run over grown channels, which no width operator keeps exact.
    """

    width: Mapping[str, Value]
    depth: Mapping[str, Value]
    joint: float = 0.0
    stages: Mapping[str, frozenset[int]] = field(default_factory=dict)


def find_knobs(spec: ModelSpec, model: nn.Module, coupling: Coupling) -> Knobs:
    """Try every number of the constructor.

    Args:
        spec: the source.
        model: its skeleton.
        coupling: its coupling.
    """
    search = _Search(spec, model, coupling)
    width, joint = search.width()
    return Knobs(width, search.depth, joint, search.stages)


class _Search:
    def __init__(self, spec: ModelSpec, model: nn.Module, coupling: Coupling) -> None:
        self._spec, self._coupling = spec, coupling
        self._shapes = shapes_of(model)
        self._sequences = sequences(self._shapes)
        self._models: dict[frozenset[str], nn.Module | None] = {}
        self._widening: dict[str, Value] = {}
        self._neutral: dict[str, Value] = {}
        self.stages: dict[str, frozenset[int]] = {}
        adding: dict[str, tuple[int, Value]] = {}
        for name, value in _numbers(spec, model).items():
            shapes = self._doubled({name: value})
            if _is_count(value) and self._grows_nothing(shapes):  # heads are counts
                self._neutral[name] = value
            if shapes == self._shapes:
                continue
            stages = self._growing_stages(name, value, shapes)
            if stages:
                adding[name] = (len(shapes or self._shapes), value)
                if isinstance(value, tuple):
                    self.stages[name] = stages
            elif shapes is not None and not self._only_adds_blocks(shapes) and self._keeps_what_is_fixed(shapes):
                self._widening[name] = value
        self.depth = {name: value for name, (_, value) in sorted(adding.items(), key=lambda item: -item[1][0])}

    def _model(self, knobs: Mapping[str, Value]) -> nn.Module | None:
        """The model with these arguments doubled, None where timm refuses them."""
        names = frozenset(knobs)
        if names not in self._models:
            try:
                found = build(self._spec.with_args(**{name: scaled(v, 2) for name, v in knobs.items()}))
            except CheckpointError:
                found = None
            self._models[names] = found
        return self._models[names]

    def _doubled(self, knobs: Mapping[str, Value]) -> Shapes | None:
        model = self._model(knobs)
        return None if model is None else shapes_of(model)

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
        if not isinstance(value, tuple) or (shapes is not None and len(shapes) <= len(self._shapes)):
            return frozenset()
        for place, number in enumerate(numbers):
            if not isinstance(number, int) or number == 0:
                continue
            alone = with_leaves(value, (*numbers[:place], 2 * number, *numbers[place + 1 :]))
            try:
                deeper = shapes_of(build(self._spec.with_args(**{name: as_lists(alone)})))
            except CheckpointError:
                continue
            if adds_like_blocks(self._shapes, deeper):
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
            if self._reach(knobs) >= _LEAST_REACH:
                found = self._with_heads(knobs)
                if not best[0] or found[1] < best[1]:
                    best = found
                if found[1] == 0:
                    break
        return best

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

    def _reach(self, knobs: Mapping[str, Value]) -> float:
        """The share of the parameters that lie in tensors which grow with these arguments, 0 to 1."""
        shapes = self._doubled(knobs) if knobs else self._shapes
        growable = {
            name: math.prod(shape)
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
        model = self._model(knobs)
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


def _is_count(value: Value) -> bool:
    return all(isinstance(part, int) for part in leaves(value))


def _numbers(spec: ModelSpec, model: nn.Module) -> dict[str, Value]:
    """The constructor's numbers; by way of growtool's own entry point the blocks of each stage as well."""
    found = constructor_numbers(spec, model)
    repeats = repeats_of(spec) if spec.architecture == OPEN else None
    return found if repeats is None else {**found, REPEATS: repeats}
