"""A model without weights, and what one forward pass tells about it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from growtool.checkpoint import ModelSpec, build, input_size
from growtool.trace import Trace, trace_model


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
        """Build and trace. Raises CheckpointError where timm cannot build or run it."""
        return cls.around(spec, build(spec, where=where))

    @classmethod
    def around(cls, spec: ModelSpec, model: nn.Module, remarks: tuple[str, ...] = ()) -> TracedModel:
        """Trace a model that has been built. Raises CheckpointError where timm cannot run it."""
        return cls(spec, model, trace_model(model, input_size(model)), remarks)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        return input_size(self.model)
