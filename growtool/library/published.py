"""Published models that a library knows by name."""

from __future__ import annotations

from dataclasses import dataclass

from growtool.library.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Published:
    """A published model, as its library knows it without asking the hub.

    Attributes:
        spec: the model.
        repository: the repository in the hub that holds its weights, `org/name`.
        revision: a branch, tag or commit of the repository; None for its default.
        file: the repository's file with the weights.
    """

    spec: ModelSpec
    repository: str
    revision: str | None = None
    file: str = "model.safetensors"
