"""A model that a library knows by name, and where its weights are published."""

from __future__ import annotations

from dataclasses import dataclass

from growtool.library.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Published:
    """What a library knows of a published model without asking anyone.

    Attributes:
        spec: the model.
        repository: in the hub, `org/name`.
        revision: of it; None for its default.
        file: of it, with the weights.
    """

    spec: ModelSpec
    repository: str
    revision: str | None = None
    file: str = "model.safetensors"
