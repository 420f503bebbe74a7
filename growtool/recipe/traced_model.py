"""A model without weights, and what one forward pass tells about it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from growtool.library import Library, ModelSpec, Sizes, build, library_of, meta_inputs
from growtool.trace import Trace, trace_built


@dataclass(frozen=True, eq=False)
class TracedModel:
    """A model, built without weights, and its trace.

    Attributes:
        remarks: what a user should know of how a target was found, a sentence each.
    """

    spec: ModelSpec
    model: nn.Module
    trace: Trace
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: ModelSpec, *, where: str) -> TracedModel:
        """Build and trace. Raises CheckpointError where it cannot be built or run."""
        return cls.around(spec, build(spec, where=where))

    @classmethod
    def around(cls, spec: ModelSpec, model: nn.Module, remarks: tuple[str, ...] = ()) -> TracedModel:
        """Trace a model that has been built. Raises CheckpointError where it does not run."""
        return cls(spec, model, trace_built(spec, model), remarks)

    @property
    def library(self) -> Library:
        """What has built it."""
        return library_of(self.spec)

    @property
    def input_sizes(self) -> Sizes:
        """The size of each tensor that it takes."""
        return meta_inputs(self.spec, self.model, 1).sizes
