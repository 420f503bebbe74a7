"""Models of other sizes, built on the meta device to see their shapes; each set of arguments is built once."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import build, runs
from growtool.library.building import Shapes, shapes_of
from growtool.library.values import Value, as_lists, scaled_at
from growtool.recipe.traced_model import TracedModel
from growtool.trace import Trace, groups_on, pair, trace_built
from growtool.trace.axes import may_grow
from growtool.trace.known import on_meta
from growtool.trace.reading.factors import sums_of_activations

# (architecture, changed arguments) -> the model and its shapes; None if its library refuses to build it.
Built = dict[tuple[str, tuple[tuple[str, Value], ...]], tuple[nn.Module, Shapes] | None]


class Trials:
    """Models of other sizes, built without weights to see what a number changes.

    Attributes:
        source: the small model.
        trace: its trace.
        shapes: of the source's tensors.
        values: arguments that are tried, with their values in the source.
        places: argument that is doubled in some of its places only -> these places, counted through `leaves`.

    Args:
        source: the small model.
        built: models that were built before for the same source, to which new ones are added; None: none.
    """

    def __init__(self, source: TracedModel, built: Built | None = None) -> None:
        self.source, self.trace = source, source.trace
        self.shapes = shapes_of(source.model)
        self.values: dict[str, Value] = {}
        self.places: dict[str, frozenset[int]] = {}
        self._models: Built = {} if built is None else built

    def model(self, values: Mapping[str, Value]) -> nn.Module | None:
        """Return the model with these arguments, or None if its library refuses them."""
        built = self._build_once(values)
        return None if built is None else built[0]

    def runs(self, values: Mapping[str, Value]) -> bool:
        """Return whether the model with these arguments can be built and runs."""
        model = self.model(values)
        with on_meta():
            return model is not None and runs(self.source.spec, model)

    def traced(self, values: Mapping[str, Value]) -> Trace | None:
        """Return the trace of the model with these arguments, or None if its library refuses them.

        Raises:
            CheckpointError: the model does not run.
        """
        model = self.model(values)
        return None if model is None else trace_built(self.source.spec, model)

    def built(self, values: Mapping[str, Value]) -> Shapes | None:
        """Return the shapes of the model with these arguments, or None if its library refuses them."""
        built = self._build_once(values)
        return None if built is None else built[1]

    def _build_once(self, values: Mapping[str, Value]) -> tuple[nn.Module, Shapes] | None:
        """Return the model with these arguments and its shapes, or None if its library refuses them."""
        key = self.source.spec.architecture, tuple(sorted(values.items()))
        if key not in self._models:
            before = logging.root.manager.disable
            logging.disable()  # some constructors also log what they raise
            try:
                model = build(self.source.spec.with_args(**{name: as_lists(v) for name, v in values.items()}))
                self._models[key] = model, shapes_of(model)
            except CheckpointError:
                self._models[key] = None
            finally:
                logging.disable(before)
        return self._models[key]

    def twice(self, names: Iterable[str]) -> dict[str, Value]:
        """Return arguments with their values doubled, each in its `places` where it has some."""
        return {name: self.twice_at(name, self.places.get(name)) for name in names}

    def twice_at(self, name: str, places: Collection[int] | None) -> Value:
        """Return the value of an argument with the numbers in these places doubled; None: all of them."""
        return scaled_at(self.values[name], 2, places)

    def doubled(self, names: Iterable[str]) -> Shapes | None:
        """Return the shapes of the model with these arguments doubled, or None if its library refuses them."""
        return self.built(self.twice(names))

    def jointly_grown(self, names: Iterable[str]) -> float:
        """Return how many products of two activations and softmaxes run over channels that grow with these arguments.

        Infinity if the library refuses the model, if it does not run, or if its tensors do not match the source's.
        """
        try:
            target = self.traced(self.twice(names))
        except CheckpointError:
            return math.inf
        if target is None:
            return math.inf
        paired, problems = pair(self.trace, target, lambda name: name)
        if problems:
            return math.inf
        grown = {
            growth.target
            for axes in paired.values()
            for axis in axes
            for growth in axis.growths()
            if growth.sizes[0] != growth.sizes[1]
        }
        sums = {(step.op.kind, step.module, axis) for step, axis in sums_of_activations(target.forward)}
        return sum(any(group in grown for group in groups_on(axis)) for _, _, axis in sums)

    def keeps_what_is_fixed(self, shapes: Shapes) -> bool:
        """Return whether every dimension that must not change has its old size; a missing tensor counts as kept."""
        return all(
            old == new or may_grow(axis)
            for name, shape in self.shapes.items()
            for old, new, axis in zip(shape, shapes.get(name, shape), self.trace.tensors[name], strict=False)
        )

    def keeps_tensors(self, shapes: Shapes) -> bool:
        """Return whether the model has the source's tensors and no others, and keeps what is fixed."""
        return shapes.keys() == self.shapes.keys() and self.keeps_what_is_fixed(shapes)

    def reach(self, names: Collection[str], *, by_size: bool = False) -> float:
        """Return the share, 0 to 1, of the tensors that may grow that do so with these arguments.

        Args:
            names: the arguments.
            by_size: whether tensors count by their number of elements, rather than one each.
        """
        shapes = self.doubled(names) if names else self.shapes
        growable = {
            name: math.prod(shape) if by_size else 1
            for name, shape in self.shapes.items()
            if any(map(may_grow, self.trace.tensors[name]))
        }
        grown = sum(size for name, size in growable.items() if shapes and shapes[name] != self.shapes[name])
        return grown / max(sum(growable.values()), 1)
