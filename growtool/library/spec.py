"""What a checkpoint says it is: the architecture and everything its library needs to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from growtool.errors import CheckpointError

BUILT_IN = "timm"  # the library of whatever no other one recognises


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture with the arguments that make it this model.

    Attributes:
        architecture: a name that the library knows, e.g. `resnet18`.
        model_args: keyword arguments of its constructor.
        settings: what the library keeps beside them and builds with: timm's `pretrained_cfg`.
        extra: whatever else `config.json` holds, kept as found (`label_names`, ...).
        library: the name of the library that builds it.
    """

    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    library: str = field(default=BUILT_IN, repr=False)

    @property
    def described(self) -> str:
        """The architecture and its arguments, as messages call them."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.model_args.items())
        return f"{self.architecture} with {arguments or 'its default arguments'}"

    def with_args(self, **changes: Any) -> ModelSpec:
        """The same architecture with some `model_args` set anew."""
        return replace(self, model_args={**self.model_args, **changes})

    def as_told(self, architecture: str | None, model_args: Mapping[str, Any], *, where: str) -> ModelSpec:
        """The same model with what a plan says of it on top.

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
        """Names of the classes in the order of the logits, where the checkpoint carries them."""
        names = self.extra.get("label_names") or self.settings.get("label_names")
        if not names:
            return None
        if isinstance(names, Mapping):  # by number, or numbers by name
            if all(isinstance(number, int) for number in names.values()):
                names = {number: name for name, number in names.items()}
            names = [names[number] for number in sorted(names, key=_as_number)]
        return tuple(map(str, names)) if isinstance(names, list | tuple) else (str(names),)


def _as_number(key: Any) -> tuple[int, str]:
    text = str(key)
    return (int(text) if text.isdecimal() else 0, text)
