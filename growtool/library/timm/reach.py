"""`growtool_open`: an entry point in timm's registry that builds timm's models with arguments that their own refuse.

Many entry points of timm fix their widths in code and refuse other ones (`got multiple values for keyword argument
'channel_multiplier'`). `growtool_open` calls such an entry point and replaces arguments that timm's builders pass on.
What is built, and how, stays timm's.

    timm.create_model("growtool_open", base="mobilenetv3_small_050", channel_multiplier=2.0)

Numbers inside nested configurations are reached by paths (`growtool.library.paths`):

    timm.create_model("growtool_open", base="hgnetv2_b0", **{"cfg.stage*.3": [1, 1, 4, 1]})

Files that describe stages in strings (the EfficientNet and MobileNet families) have no argument for the number of
blocks of each stage; `repeats` is one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from growtool.library.building import set_eps, without_weights
from growtool.library.timm.overriding import REPEATS, SeenError, overridden

if TYPE_CHECKING:
    from torch import nn

    from growtool.library.spec import ModelSpec

OPEN = "growtool_open"
_FOR_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # arguments of every entry point


def growtool_open(base: str, eps_of: Mapping[str, float] | None = None, **kwargs: Any) -> nn.Module:
    """Build the timm model `base` with arguments that its entry point refuses.

    Args:
        base: a name of timm's registry.
        eps_of: path of a norm -> its eps, which few of timm's constructors take.
        kwargs: arguments of the builders of its file (`channel_multiplier`, ...) or of its class (`embed_dim`, ...);
            paths into arguments of its class, such as `cfg.blocks.*.d` or `cfgs.*.*.times`, see
            `growtool.library.paths`; `repeats`, a list of the number of blocks of each stage, where the file decodes
            stages from strings.

    Raises:
        TypeError: an argument is taken neither by the builders nor by the class.
        ValueError: a path leads nowhere, or the number of values is not that of the places.
    """
    from timm.models import model_entrypoint

    entrypoint = model_entrypoint(base)
    plain = {name: kwargs.pop(name) for name in _FOR_TIMM if name in kwargs}
    with overridden(sys.modules[entrypoint.__module__], kwargs):
        model: nn.Module = entrypoint(**plain)
    set_eps(model, eps_of or {})
    return model


def register() -> None:
    """Register `growtool_open` in timm, if it is not there yet."""
    from timm.models import is_model, register_model

    if not is_model(OPEN):
        register_model(growtool_open)


def create(spec: ModelSpec) -> nn.Module:
    """Return the model that timm builds from a folder with this spec, with its initial weights."""
    from timm.models import model_entrypoint

    register()
    name, _, tag = spec.architecture.partition(".")
    # Not by `create_model`, which drops arguments that are None. It hands on those of a folder's `config.json`, and for
    # `class_token` or `in_chans` None makes another model, or an error.
    model: nn.Module = model_entrypoint(name)(
        pretrained=False,
        pretrained_cfg=dict(spec.settings) or tag or None,
        pretrained_cfg_overlay=None,
        cache_dir=None,
        **spec.model_args,
    )
    return model


def with_open_arguments(spec: ModelSpec) -> ModelSpec:
    """Return the spec that builds the same model through `growtool_open`."""
    if spec.architecture == OPEN:
        return spec
    return replace(spec, architecture=OPEN, model_args={"base": spec.architecture, **spec.model_args})


def home_module(spec: ModelSpec) -> str:
    """Return the module that registers a model: `timm.models.resnet`, `growtool.library.timm.reach` or a user's own."""
    from timm.models import model_entrypoint

    return str(model_entrypoint(spec.architecture).__module__)


def base_architecture(spec: ModelSpec) -> str:
    """Return timm's own name for the kind of model, also if it is built through `growtool_open`."""
    return str(spec.model_args["base"]) if spec.architecture == OPEN else spec.architecture


def configuration(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments that the model's class is given, defaults included, before any entry is repeated."""
    return _watched(spec)[0]


def repeats_of(spec: ModelSpec) -> tuple[int, ...] | None:
    """Return the number of blocks of each stage; None if the model's file does not decode stages from strings."""
    repeats = spec.model_args.get(REPEATS)
    if repeats is None:
        decoded = _watched(spec)[1]
        repeats = map(len, decoded[-1]) if decoded else None
    return None if repeats is None else tuple(repeats)


def _watched(spec: ModelSpec) -> tuple[dict[str, Any], Sequence[Sequence[Any]]]:
    """Return the arguments that the model's class is given, and the stages that its file decodes on the way there."""
    from timm.models import model_entrypoint

    args = dict(with_open_arguments(spec).model_args)
    entrypoint = model_entrypoint(args.pop("base"))
    seen: dict[str, Any] = {}
    args = {name: value for name, value in args.items() if name not in ("eps_of", *_FOR_TIMM)}
    with overridden(sys.modules[entrypoint.__module__], args, seen) as decoded, contextlib.suppress(SeenError):
        without_weights(entrypoint)  # a user's own file may build the model, instead of raising SeenError
    return seen, decoded
