"""What a checkpoint says it is: the architecture and everything timm needs to build it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from growtool.checkpoint.data_config import problems_of
from growtool.errors import CheckpointError

# Keys of config.json that timm turns into keyword arguments of `create_model` (timm/models/_hub.py, load_model_config).
_TOP_LEVEL_ARGS = ("num_classes", "global_pool")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """An architecture of timm's registry with the arguments that make it this model.

    Attributes:
        architecture: a name `timm.create_model` knows, e.g. `resnet18`.
        model_args: keyword arguments for `timm.create_model`, the ones `config.json` keeps under `model_args`.
        pretrained_cfg: timm's data and head configuration (`input_size`, `mean`, `classifier`, ...).
        extra: every other top-level key of `config.json`, kept as found (`label_names`, ...).
    """

    architecture: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pretrained_cfg: Mapping[str, Any] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def described(self) -> str:
        """The architecture and its arguments, as messages call them."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.model_args.items())
        return f"{self.architecture} with {arguments or 'its default arguments'}"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str) -> ModelSpec:
        """Read the content of a timm `config.json`, also of the old form whose keys are not grouped yet.

        Raises:
            CheckpointError: `architecture` is missing, or a key has the wrong type; names `where`.
        """
        config = config if "pretrained_cfg" in config else _grouped(config)
        problems = []
        architecture = config.get("architecture")
        if not isinstance(architecture, str) or not architecture:
            problems.append(f"{where}: architecture: found {architecture!r}, expected the name of a timm model")
        for key in ("model_args", "pretrained_cfg"):
            if not isinstance(config.get(key), Mapping | None):
                problems.append(f"{where}: {key}: found {type(config[key]).__name__}, expected a mapping")
        if problems:
            raise CheckpointError(problems)
        args = {key: config[key] for key in _TOP_LEVEL_ARGS if config.get(key) is not None}
        args |= config.get("model_args") or {}
        problems = problems_of(config.get("pretrained_cfg") or {}, f"{where}: pretrained_cfg")
        problems += problems_of({"num_classes": args.get("num_classes")}, where)
        if problems:
            raise CheckpointError(problems)
        known = {"architecture", "num_features", "model_args", "pretrained_cfg", *_TOP_LEVEL_ARGS}
        extra = {key: value for key, value in config.items() if key not in known}
        return cls(str(architecture), args, dict(config.get("pretrained_cfg") or {}), extra)

    def to_config(self, *, num_features: int) -> dict[str, Any]:
        """The content of `config.json`, in timm's order of keys."""
        config: dict[str, Any] = {"architecture": self.architecture}
        if "num_classes" in self.model_args:
            config["num_classes"] = self.model_args["num_classes"]
        config["num_features"] = num_features
        if "global_pool" in self.model_args:
            config["global_pool"] = self.model_args["global_pool"]
        config["model_args"] = dict(self.model_args)
        # as timm saves it: the rows that an offset counts are not in the weights any more
        config["pretrained_cfg"] = {key: value for key, value in self.pretrained_cfg.items() if key != "label_offset"}
        return config | dict(self.extra)

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

    def with_classes(self, count: int) -> ModelSpec:
        """The same model with a head for `count` classes that have no names yet."""
        named = {"label_names", "label_descriptions"}
        extra = {key: value for key, value in self.extra.items() if key not in named}
        config = {key: value for key, value in self.pretrained_cfg.items() if key not in named}
        config |= {"num_classes": count} if "num_classes" in config else {}
        return replace(self.with_args(num_classes=count), pretrained_cfg=config, extra=extra)

    @property
    def num_classes(self) -> int | None:
        """Number of classes, where the spec says it."""
        found = self.model_args.get("num_classes", self.pretrained_cfg.get("num_classes"))
        return None if found is None else int(found)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, where the checkpoint carries them."""
        names = self.extra.get("label_names") or self.pretrained_cfg.get("label_names")
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


def _grouped(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration in today's form, as timm reads it (timm/models/_hub.py, _parse_model_cfg).

    What timm does not know under `pretrained_cfg` stays where it is.
    """
    flat = set(config) - {"architecture", "num_features", "model_args", *_TOP_LEVEL_ARGS}
    if not flat:
        return dict(config)
    from timm.models import PretrainedCfg

    known = flat & ({field.name for field in fields(PretrainedCfg)} | {"labels"})
    grouped = {"label_names" if key == "labels" else key: config[key] for key in config if key in known}
    return {key: value for key, value in config.items() if key not in known} | {"pretrained_cfg": grouped}
