"""Which constructor arguments make a model wider or deeper, found by trying them.

No list of argument names: each number a constructor takes is doubled on the meta device, and what happens to the shapes
says what it is. A width argument doubles channels that may grow; a depth argument adds blocks to a sequence; an
argument that leaves every shape alone may still decide how channels split into heads.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import itertools
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from torch import nn

from growtool.checkpoint import ModelSpec, build, input_size
from growtool.coupling import Coupling, atoms, inside, pair, trace_model
from growtool.coupling.depth import sequences
from growtool.errors import CheckpointError

Number = int | float
Value = Number | tuple[Number | str, ...]
Shapes = Mapping[str, tuple[int, ...]]

INHERITED = ("num_classes", "in_chans", "global_pool")  # what a model of another name keeps of the source
_MOST_TOGETHER = 3  # arguments that have to change together to widen a model (stem and stages, say)
_LEAST_REACH = 0.5  # share of the parameters that has to grow for arguments to count as scaling the model
_SIBLINGS_TRIED = 16
_JOINT = ("product", "softmax")


@dataclass(frozen=True, slots=True)
class Knobs:
    """Arguments of the constructor and their values in the source.

    Attributes:
        width: scaled together they widen every group that the constructor lets grow, heads by number.
        depth: arguments that add blocks, the one that adds most first.
    """

    width: Mapping[str, Value]
    depth: Mapping[str, Value]


def find_knobs(spec: ModelSpec, model: nn.Module, coupling: Coupling) -> Knobs:
    """Try every number of the constructor.

    Args:
        spec: the source.
        model: its skeleton.
        coupling: its coupling.
    """
    search = _Search(spec, model, coupling)
    return Knobs(search.width(), search.depth)


def scaled(value: Value, factor: float) -> Value:
    """A value, or each number in it, times a factor; whole products of whole numbers stay whole numbers."""
    if isinstance(value, tuple):
        return tuple(part if isinstance(part, str) else _times(part, factor) for part in value)
    return _times(value, factor)


def _times(value: Number, factor: float) -> Number:
    product = value * factor
    return int(product) if isinstance(value, int) and product == int(product) else product


class _Search:
    def __init__(self, spec: ModelSpec, model: nn.Module, coupling: Coupling) -> None:
        self._spec, self._coupling = spec, coupling
        self._shapes = _shapes(model)
        self._sequences = sequences(self._shapes)
        self._widening: dict[str, Value] = {}
        self._neutral: dict[str, Value] = {}
        adding: dict[str, tuple[int, Value]] = {}
        for name, value in constructor_numbers(spec, model).items():
            shapes = self._doubled({name: value})
            if shapes is None:
                continue
            if shapes == self._shapes:
                self._neutral[name] = value
            elif self._only_adds_blocks(shapes):
                adding[name] = (len(shapes), value)
            elif self._keeps_what_is_fixed(shapes):
                self._widening[name] = value
        self.depth = {name: value for name, (_, value) in sorted(adding.items(), key=lambda item: -item[1][0])}

    def _doubled(self, knobs: Mapping[str, Value]) -> Shapes | None:
        try:
            return _shapes(build(self._spec.with_args(**{name: scaled(v, 2) for name, v in knobs.items()})))
        except CheckpointError:
            return None

    def _only_adds_blocks(self, shapes: Shapes) -> bool:
        return all(shapes.get(name) == shape for name, shape in self._shapes.items()) and all(
            name in self._shapes or any(inside(name, prefix) is not None for prefix in self._sequences)
            for name in shapes
        )

    def _keeps_what_is_fixed(self, shapes: Shapes) -> bool:
        return all(
            old == new or any(atom.fixed is None for atom in atoms(axis))
            for name, shape in self._shapes.items()
            for old, new, axis in zip(shape, shapes.get(name, shape), self._coupling.tensors[name], strict=False)
        )

    def width(self) -> dict[str, Value]:
        """The smallest set of arguments that together bring most dimensions nearest to double."""
        best: dict[str, Value] = {}
        lowest = self._cost(self._shapes)
        for together in range(1, _MOST_TOGETHER + 1):
            if lowest == 0:
                break
            for names in itertools.combinations(self._widening, together):
                knobs = {name: self._widening[name] for name in names}
                shapes = self._doubled(knobs)
                if shapes is not None and shapes.keys() >= self._shapes.keys() and self._keeps_what_is_fixed(shapes):
                    cost = self._cost(shapes)
                    if cost < lowest:
                        best, lowest = knobs, cost
        return self._with_heads(best) if self._reach(best) >= _LEAST_REACH else {}

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

    def _with_heads(self, knobs: dict[str, Value]) -> dict[str, Value]:
        """Add arguments that keep the head size: those that rid attention of grown channels."""
        grown = self._jointly_grown(knobs)
        for name, value in self._neutral.items():
            if grown == 0:
                break
            left = self._jointly_grown({**knobs, name: value})
            if left < grown:
                knobs, grown = {**knobs, name: value}, left
        return knobs

    def _jointly_grown(self, knobs: Mapping[str, Value]) -> float:
        """How many products and softmaxes run over channels that grow with these arguments."""
        try:
            model = build(self._spec.with_args(**{name: scaled(v, 2) for name, v in knobs.items()}))
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


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def constructor_numbers(spec: ModelSpec, model: nn.Module) -> dict[str, Value]:
    """The numbers, and sequences of numbers, that the model was constructed with, defaults included.

    Counted are the arguments of the model's class and of the functions of its file that lead there, and the fields of a
    configuration object among them: timm lays keyword arguments over those.
    """
    seen: dict[str, Any] = {}
    classes = itertools.takewhile(lambda cls: cls is not nn.Module, type(model).__mro__)
    innermost: CodeType = [vars(cls)["__init__"].__code__ for cls in classes if "__init__" in vars(cls)][-1]
    home = inspect.getfile(type(model))

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and (code.co_filename == home or code is innermost):
            seen.update((name, frame.f_locals[name]) for name in _argument_names(code))
            if code is innermost:
                sys.setprofile(before)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        build(spec)
    finally:
        sys.setprofile(before)
    for value in list(seen.values()):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            seen.update({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, dict):
            seen.update({name: part for name, part in value.items() if isinstance(name, str)})
    found = {name: _number(value) for name, value in seen.items()}
    return {name: value for name, value in found.items() if value is not None}


def _argument_names(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _number(value: Any) -> Value | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if value > 0 else None
    if isinstance(value, list | tuple) and all(_is_count(part) or isinstance(part, str) for part in value):
        return tuple(value) if any(map(_is_count, value)) else None
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def larger_siblings(spec: ModelSpec, model: nn.Module, candidates: Iterable[str]) -> list[str]:
    """Registered models with the same parameters, none of them smaller and one larger, nearest first.

    Looked at are the candidates whose names are nearest to the source's; building all of a large family takes minutes.
    """
    own = _shapes(model)
    found = []
    for name in difflib.get_close_matches(spec.architecture, list(candidates), n=_SIBLINGS_TRIED, cutoff=0.0):
        kept = {
            key: spec.model_args[key] for key in ("num_classes", "in_chans", "global_pool") if key in spec.model_args
        }
        try:
            shapes = _shapes(build(ModelSpec(name, kept)))
        except CheckpointError:
            continue
        if shapes.keys() == own.keys() and shapes != own and _none_smaller(own, shapes):
            found.append((sum(map(sum, shapes.values())), name))
    return [name for _, name in sorted(found)]


def _none_smaller(own: Shapes, other: Shapes) -> bool:
    return all(
        len(shape) == len(other[name]) and all(a <= b for a, b in zip(shape, other[name], strict=True))
        for name, shape in own.items()
    )
