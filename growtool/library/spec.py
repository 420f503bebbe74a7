"""The description of a model: its architecture and everything that its library needs to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from growtool.errors import CheckpointError

BUILT_IN = "timm"  # name of the library that takes every configuration that no other library recognises


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture with the arguments that make it this model.

    Attributes:
        architecture: a name that the library knows, e.g. `resnet18`.
        model_args: keyword arguments of its constructor.
        settings: whatever else the library builds with, such as timm's `pretrained_cfg`.
        extra: the rest of `config.json`, kept as found (`label_names`, ...).
        library: the name of the library that builds it.
    """

    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    library: str = field(default=BUILT_IN, repr=False)

    @property
    def described(self) -> str:
        """Return the architecture and its arguments for messages."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.model_args.items())
        return f"{self.architecture} with {arguments or 'its default arguments'}"

    def with_args(self, **changes: Any) -> ModelSpec:
        """Return the spec with some `model_args` replaced or added."""
        return replace(self, model_args={**self.model_args, **changes})

    def with_plan_args(self, architecture: str | None, model_args: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Return the spec with the `model_args` of a plan on top.

        Raises:
            CheckpointError: the plan names another architecture; names `where`.
        """
        if architecture not in (None, self.architecture):
            raise CheckpointError(
                f"{where}: architecture: found {self.architecture!r}, the plan says model: {architecture!r}; "
                "drop `model` from the plan or name the matching checkpoint"
            )
        return self.with_args(**model_args)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes in the order of the logits; None if the checkpoint has none."""
        names = self.extra.get("label_names") or self.settings.get("label_names")
        if not names:
            return None
        if isinstance(names, Mapping):
            if all(isinstance(number, int) for number in names.values()):  # numbers by name: turn it round
                names = {number: name for name, number in names.items()}
            names = [names[number] for number in sorted(names, key=_as_number)]
        return tuple(map(str, names)) if isinstance(names, list | tuple) else (str(names),)


def _as_number(key: Any) -> tuple[int, str]:
    """Return a key that sorts numbers by value, also those that JSON keeps as strings."""
    text = str(key)
    return (int(text) if text.isdecimal() else 0, text)


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
