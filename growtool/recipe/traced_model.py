"""A model without weights, together with the trace of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from growtool.library import Library, ModelSpec, Sizes, build, library_of, meta_inputs
from growtool.trace import Trace, trace_built


@dataclass(frozen=True, eq=False)
class TracedModel:
    """A model, built without weights, and its trace.

    Attributes:
        spec: what it was built by.
        model: with parameters on the meta device.
        trace: of one forward pass.
        remarks: sentences for the user on how a target was found.
    """

    spec: ModelSpec
    model: nn.Module
    trace: Trace
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: ModelSpec, *, where: str) -> TracedModel:
        """Build and trace a model; raise CheckpointError if it cannot be built or does not run.

        Args:
            spec: of the model.
            where: what messages name as the place of an error.
        """
        return cls.around(spec, build(spec, where=where))

    @classmethod
    def around(cls, spec: ModelSpec, model: nn.Module, remarks: tuple[str, ...] = ()) -> TracedModel:
        """Trace a model that has been built; raise CheckpointError if it does not run."""
        return cls(spec, model, trace_built(spec, model), remarks)

    @property
    def library(self) -> Library:
        """The library that built the model."""
        return library_of(self.spec)

    @property
    def input_sizes(self) -> Sizes:
        """The size of each tensor that the model takes, without the batch."""
        return meta_inputs(self.spec, self.model, 1).sizes
