"""An open door beside timm's closed ones.

Many entry points of timm fix their widths in code and refuse to be told otherwise (`got multiple values for keyword
argument 'channel_multiplier'`). `growtool_open` is a timm model of its own: it calls such an entry point and lays its
arguments over those that timm's builders would pass on. What is built, and how, stays timm's.

    timm.create_model("growtool_open", base="mobilenetv3_small_050", channel_multiplier=2.0)

Numbers inside nested configurations are reached by paths (`growtool.library.paths`):

    timm.create_model("growtool_open", base="hgnetv2_b0", **{"cfg.stage*.3": [1, 1, 4, 1]})

Files that describe stages in strings (the EfficientNet and MobileNet families) have no argument for the number of
blocks of each stage; `repeats` is one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from growtool.library.building import set_eps, without_weights
from growtool.library.timm.overriding import DECODER, REPEATS, SeenError, overridden, patching, watching

if TYPE_CHECKING:
    from torch import nn

    from growtool.library.spec import ModelSpec

OPEN = "growtool_open"
_FOR_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def growtool_open(base: str, eps_of: Mapping[str, float] | None = None, **kwargs: Any) -> nn.Module:
    """The timm model `base` with arguments that its entry point refuses.

    Args:
        base: a name of timm's registry.
        eps_of: path of a norm -> its eps, which timm's constructors keep to themselves.
        kwargs: arguments of the builders of its file (`channel_multiplier`, ...) or of its class (`embed_dim`, ...);
            paths into arguments of its class, such as `cfg.blocks.*.d` or `cfgs.*.*.times`, see
            `growtool.library.paths`; `repeats`, a list of the number of blocks of each stage, where the file decodes
            stages from strings.

    Raises:
        TypeError: neither the builders nor the class take one of the arguments.
        ValueError: a path leads nowhere, or a list has not as many values as there are places.
    """
    from timm.models import model_entrypoint

    entrypoint = model_entrypoint(base)
    plain = {name: kwargs.pop(name) for name in _FOR_TIMM if name in kwargs}
    with overridden(sys.modules[entrypoint.__module__], kwargs):
        model: nn.Module = entrypoint(**plain)
    set_eps(model, eps_of or {})
    return model


def register() -> None:
    """Make `growtool_open` known to timm."""
    from timm.models import is_model, register_model

    if not is_model(OPEN):
        register_model(growtool_open)


def create(spec: ModelSpec) -> nn.Module:
    """What timm builds from a folder: there an argument that is null is handed on, while `create_model` drops it."""
    from timm.models import model_entrypoint

    register()
    name, _, tag = spec.architecture.partition(".")
    model: nn.Module = model_entrypoint(name)(
        pretrained=False,
        pretrained_cfg=dict(spec.settings) or tag or None,
        pretrained_cfg_overlay=None,
        cache_dir=None,
        **spec.model_args,
    )
    return model


def opened(spec: ModelSpec) -> ModelSpec:
    """The same model by way of `growtool_open`."""
    if spec.architecture == OPEN:
        return spec
    return replace(spec, architecture=OPEN, model_args={"base": spec.architecture, **spec.model_args})


def home_module(spec: ModelSpec) -> str:
    """The module that registers the spec's model: `timm.models.resnet`, `growtool.library.timm.reach`, a user's own."""
    from timm.models import model_entrypoint

    return str(model_entrypoint(spec.architecture).__module__)


def base_architecture(spec: ModelSpec) -> str:
    """timm's own name for the kind of model, also where it is built through `growtool_open`."""
    return str(spec.model_args["base"]) if spec.architecture == OPEN else spec.architecture


def configuration(spec: ModelSpec) -> dict[str, Any]:
    """The arguments that the class of the spec's model is given, its defaults included, with nothing repeated yet."""
    from timm.models import model_entrypoint

    args = dict(opened(spec).model_args)
    entrypoint = model_entrypoint(args.pop("base"))
    seen: dict[str, Any] = {}
    args = {name: value for name, value in args.items() if name not in ("eps_of", *_FOR_TIMM)}
    with overridden(sys.modules[entrypoint.__module__], args, seen), contextlib.suppress(SeenError):
        entrypoint()
    return seen


def repeats_of(spec: ModelSpec) -> tuple[int, ...] | None:
    """The number of blocks of each stage, None where the model's file does not decode stages from strings."""
    wanted = spec.model_args.get(REPEATS)
    if wanted is not None:
        return tuple(wanted)
    module = sys.modules[home_module(replace(spec, architecture=base_architecture(spec)))]
    found: list[list[Any]] = []
    decode = vars(module).get(DECODER)
    if decode is None:
        return None
    with patching:
        setattr(module, DECODER, watching(decode, found))
        try:
            without_weights(partial(create, spec))
        finally:
            setattr(module, DECODER, decode)
    return tuple(map(len, found[-1])) if found else None
