"""Models built to see what becomes of shapes: each set of arguments once, on the meta device."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping

from torch import nn

from growtool.errors import CheckpointError
from growtool.library import ModelSpec, build, runs
from growtool.library.building import Shapes, shapes_of
from growtool.library.values import Value, as_lists, scaled_at
from growtool.trace import Trace, groups_on, pair, trace_built
from growtool.trace.known import on_meta
from growtool.trace.reading.factors import sums_of_activations

# By the architecture and its arguments; None for what its library refuses.
Built = dict[tuple[str, tuple[tuple[str, Value], ...]], tuple[nn.Module, Shapes] | None]


class Trials:
    """Models of other sizes, built without weights to see what a number changes.

    Attributes:
        trace: of the source.
        shapes: of the source's tensors.
        built: what was built before, of the same source; None starts anew.
        places: of an argument that is doubled in some of its places only, these, counted through `leaves`.
    """

    def __init__(self, spec: ModelSpec, model: nn.Module, trace: Trace, built: Built | None = None) -> None:
        self._spec, self.trace = spec, trace
        self.shapes = shapes_of(model)
        self.places: dict[str, frozenset[int]] = {}
        self._models: Built = {} if built is None else built

    def model(self, values: Mapping[str, Value]) -> nn.Module | None:
        """The model with these arguments, None where its library refuses them."""
        found = self._tried(values)
        return None if found is None else found[0]

    def runs(self, values: Mapping[str, Value]) -> bool:
        """Whether the model with these arguments is built and runs."""
        model = self.model(values)
        with on_meta():
            return model is not None and runs(self._spec, model)

    def traced(self, values: Mapping[str, Value]) -> Trace | None:
        """The trace of the model with these arguments, None where its library refuses them.

        Raises:
            CheckpointError: it does not run.
        """
        model = self.model(values)
        return None if model is None else trace_built(self._spec, model)

    def built(self, values: Mapping[str, Value]) -> Shapes | None:
        """The shapes of the model with these arguments, None where its library refuses them."""
        found = self._tried(values)
        return None if found is None else found[1]

    def _tried(self, values: Mapping[str, Value]) -> tuple[nn.Module, Shapes] | None:
        key = self._spec.architecture, tuple(sorted(values.items()))
        if key not in self._models:
            before = logging.root.manager.disable
            logging.disable()  # some refusals are logged beside being raised
            try:
                model = build(self._spec.with_args(**{name: as_lists(value) for name, value in values.items()}))
                self._models[key] = model, shapes_of(model)
            except CheckpointError:
                self._models[key] = None
            finally:
                logging.disable(before)
        return self._models[key]

    def twice(self, size_arguments: Mapping[str, Value]) -> dict[str, Value]:
        """Arguments of the source, doubled."""
        return {name: twice_at(value, self.places.get(name)) for name, value in size_arguments.items()}

    def doubled(self, size_arguments: Mapping[str, Value]) -> Shapes | None:
        """The shapes of the model with these arguments doubled."""
        return self.built(self.twice(size_arguments))

    def jointly_grown(self, size_arguments: Mapping[str, Value]) -> float:
        """How many products and softmaxes run over channels that grow with these arguments.

        Infinity where the library refuses the model, or it does not run or fit the source.
        """
        try:
            target = self.traced(self.twice(size_arguments))
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
        """Whether no dimension changes that must not."""
        return all(
            old == new or any(group.fixed is None for group in groups_on(axis))
            for name, shape in self.shapes.items()
            for old, new, axis in zip(shape, shapes.get(name, shape), self.trace.tensors[name], strict=False)
        )

    def reach(self, size_arguments: Mapping[str, Value], *, by_size: bool) -> float:
        """The share of the tensors that may grow and grow with these arguments, 0 to 1; large ones count for more."""
        shapes = self.doubled(size_arguments) if size_arguments else self.shapes
        growable = {
            name: math.prod(shape) if by_size else 1
            for name, shape in self.shapes.items()
            if any(group.fixed is None for axis in self.trace.tensors[name] for group in groups_on(axis))
        }
        grown = sum(size for name, size in growable.items() if shapes and shapes[name] != self.shapes[name])
        return grown / max(sum(growable.values()), 1)


def twice_at(value: Value, places: Collection[int] | None) -> Value:
    """A value doubled in these places, None for all."""
    return scaled_at(value, 2, places)
