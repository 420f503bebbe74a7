"""timm's `config.json`: reading, writing, and checking the types of its values.

timm itself looks at the values for preparing images only when the first image comes, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

# Keys of config.json that timm turns into keyword arguments of `create_model` (timm/models/_hub.py, load_model_config).
_TOP_LEVEL_ARGS = ("num_classes", "global_pool")
# Arguments of timm's train.py that tell how to prepare images.
_PREPARING = ("mean", "std", "interpolation", "crop_pct", "img_size", "input_size")

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_is_count(number, 1) for number in value)


def _are_numbers(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value)))


def _are_scales(value: Any) -> bool:
    return _are_numbers(value) and all(number > 0 for number in (value if isinstance(value, list | tuple) else [value]))


def _are_names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(name, str) for name in value))


_SIZE = "three whole numbers from 1: channels, height, width"
_KNOWN: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_size, _SIZE),
    "test_input_size": (_is_size, _SIZE),
    "mean": (_are_numbers, "a number, or one for each channel"),
    "std": (_are_scales, "a number above 0, or one for each channel"),
    "crop_pct": (lambda value: _is_number(value) and 0.01 <= value <= 100, "a number from 0.01 to 100"),
    "test_crop_pct": (lambda value: _is_number(value) and 0.01 <= value <= 100, "a number from 0.01 to 100"),
    "interpolation": (lambda value: value in _INTERPOLATIONS, f"one of {', '.join(_INTERPOLATIONS)}"),
    "crop_mode": (lambda value: isinstance(value, str), "a string"),
    "num_classes": (lambda value: _is_count(value, 0), "a whole number from 0"),
    "label_offset": (lambda value: _is_count(value, 0) or value is False, "a whole number from 0"),
    "classifier": (_are_names, "the name of a module, or a list of names"),
    "first_conv": (_are_names, "the name of a module, or a list of names"),
}


def problems_of(config: Mapping[str, Any], where: str) -> list[str]:
    """Return a line for each wrong value in `pretrained_cfg`; null is right everywhere, and means timm's default."""
    return [
        f"{where}: {key}: found {_shown(config[key])}, expected {expected}; restore the file"
        for key, (is_right, expected) in _KNOWN.items()
        if config.get(key) is not None and not is_right(config[key])
    ]


def _shown(value: Any, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def read_config(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """Return the spec of a timm `config.json`, also of the old form without a `pretrained_cfg`.

    Raises:
        CheckpointError: `architecture` is missing, or a value has the wrong type; names `where`.
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
    return ModelSpec(str(architecture), args, dict(config.get("pretrained_cfg") or {}), extra)


def written_config(spec: ModelSpec, num_features: int) -> dict[str, Any]:
    """Return the content of `config.json`, in timm's order of keys."""
    config: dict[str, Any] = {"architecture": spec.architecture}
    if "num_classes" in spec.model_args:
        config["num_classes"] = spec.model_args["num_classes"]
    config["num_features"] = num_features
    if "global_pool" in spec.model_args:
        config["global_pool"] = spec.model_args["global_pool"]
    config["model_args"] = dict(spec.model_args)
    # As timm saves it: loading has cut the rows that the offset counts, so the weights that are written lack them.
    config["pretrained_cfg"] = {key: value for key, value in spec.settings.items() if key != "label_offset"}
    return config | dict(spec.extra)


def with_classes(spec: ModelSpec, count: int) -> ModelSpec:
    """Return the spec with `count` classes and without the names of the old ones."""
    of_labels = {"label_names", "label_descriptions"}
    extra = {key: value for key, value in spec.extra.items() if key not in of_labels}
    settings = {key: value for key, value in spec.settings.items() if key not in of_labels}
    settings |= {"num_classes": count} if "num_classes" in settings else {}
    return replace(spec.with_args(num_classes=count), settings=settings, extra=extra)


def prepared_settings(
    spec: ModelSpec, model: nn.Module, classes: int, input_size: tuple[int, int, int], said: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the `pretrained_cfg` of an imported checkpoint, and the training script's arguments that it took.

    Args:
        spec: the spec; its settings, if any, are used instead of those of timm's registry.
        model: the model as timm has loaded it.
        classes: the number of its logits.
        input_size: channels, height and width of its images.
        said: the arguments of the training script.
    """
    from timm.data import resolve_data_config
    from timm.models import filter_pretrained_cfg

    settings: Any = dict(spec.settings)
    if not settings:
        settings = filter_pretrained_cfg(model.pretrained_cfg, remove_source=True, remove_null=True)
        # `take` handed the tensors over in `state_dict`, and timm has cut the head by `label_offset`.
        for key in ("architecture", "state_dict", "label_offset"):
            settings.pop(key, None)
        if settings.get("num_classes") != classes:
            settings = {key: value for key, value in settings.items() if not key.startswith("label_")}
        settings |= {"num_classes": classes, "custom_load": False, "input_size": list(input_size)}
    told = {key: said[key] for key in _PREPARING if said.get(key) is not None}
    if told:
        settings |= resolve_data_config(told, pretrained_cfg=settings)
    return settings, tuple(f"{key} {value}" for key, value in told.items())


def _grouped(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat configuration with timm's settings moved into `pretrained_cfg`, as `_parse_model_cfg` of timm does.

    Keys that are no settings of timm stay at the top.
    """
    flat = set(config) - {"architecture", "num_features", "model_args", *_TOP_LEVEL_ARGS}
    if not flat:
        return dict(config)
    from timm.models import PretrainedCfg

    known = flat & ({field.name for field in fields(PretrainedCfg)} | {"labels"})
    grouped = {"label_names" if key == "labels" else key: config[key] for key in config if key in known}
    return {key: value for key, value in config.items() if key not in known} | {"pretrained_cfg": grouped}
