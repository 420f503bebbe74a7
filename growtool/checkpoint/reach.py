"""An open door beside timm's closed ones.

Many entry points of timm fix their widths in code and refuse to be told otherwise (`got multiple values for keyword
argument 'channel_multiplier'`). `growtool_open` is a timm model of its own: it calls such an entry point and lays its
arguments over those that timm's builders would pass on. What is built, and how, stays timm's.

    timm.create_model("growtool_open", base="mobilenetv3_small_050", channel_multiplier=2.0)

Files that describe stages in strings (the EfficientNet and MobileNet families) have no argument for the number of
blocks of each stage; `repeats` is one.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint.spec import ModelSpec

OPEN = "growtool_open"
REPEATS = "repeats"
_DECODER = "decode_arch_def"  # timm's function from strings to stages, each a list of blocks
_FOR_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_patching = threading.RLock()


def growtool_open(base: str, eps_of: Mapping[str, float] | None = None, **kwargs: Any) -> nn.Module:
    """The timm model `base` with arguments that its entry point refuses.

    Args:
        base: a name of timm's registry.
        eps_of: path of a norm -> its eps, which timm's constructors keep to themselves.
        kwargs: arguments of the builders of its file (`channel_multiplier`, ...) or of its class (`embed_dim`, ...);
            `repeats`, a list of the number of blocks of each stage, where the file decodes stages from strings.

    Raises:
        TypeError: neither the builders nor the class take one of the arguments.
    """
    from timm.models import model_entrypoint

    entrypoint = model_entrypoint(base)
    plain = {name: kwargs.pop(name) for name in _FOR_TIMM if name in kwargs}
    with _overridden(sys.modules[entrypoint.__module__], kwargs):
        model: nn.Module = entrypoint(**plain)
    set_eps(model, eps_of or {})
    return model


def set_eps(model: nn.Module, eps_of: Mapping[str, float]) -> None:
    """Give norms another eps.

    Args:
        model: changed in place.
        eps_of: path of a norm -> its eps.

    Raises:
        TypeError: no such module, or one without an eps.
    """
    modules = dict(model.named_modules())
    for path, eps in eps_of.items():
        if getattr(modules.get(path), "eps", None) is None:
            raise TypeError(f"eps_of: {path} is not a norm of this model")
        modules[path].eps = eps


def register() -> None:
    """Make `growtool_open` known to timm."""
    from timm.models import is_model, register_model

    if not is_model(OPEN):
        register_model(growtool_open)


def opened(spec: ModelSpec) -> ModelSpec:
    """The same model by way of `growtool_open`."""
    if spec.architecture == OPEN:
        return spec
    return replace(spec, architecture=OPEN, model_args={"base": spec.architecture, **spec.model_args})


def with_eps(spec: ModelSpec, eps_of: Mapping[str, float]) -> ModelSpec:
    """The same model with another eps for some norms, by way of `growtool_open`; the spec itself if there are none."""
    if not eps_of:
        return spec
    return opened(spec).with_args(eps_of={**spec.model_args.get("eps_of", {}), **eps_of})


def home_module(spec: ModelSpec) -> str:
    """The module that registers the spec's model: `timm.models.resnet`, `growtool.checkpoint.reach`, a user's own."""
    from timm.models import model_entrypoint

    return str(model_entrypoint(spec.architecture).__module__)


def base_architecture(spec: ModelSpec) -> str:
    """timm's own name for the kind of model, also where it is built through `growtool_open`."""
    return str(spec.model_args["base"]) if spec.architecture == OPEN else spec.architecture


@contextlib.contextmanager
def _overridden(module: ModuleType, overrides: Mapping[str, Any]) -> Iterator[None]:
    """While open, the builders of a model file pass `overrides` on, whatever the entry point says."""
    pending = dict(overrides)
    kept = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and (name == "build_model_with_cfg" or _is_builder(value, module))
    }
    with _patching:
        if REPEATS in pending and _DECODER in vars(module):
            kept[_DECODER] = vars(module)[_DECODER]
            setattr(module, _DECODER, _repeating(kept[_DECODER], pending.pop(REPEATS)))
        for name, function in kept.items():
            if name == _DECODER:
                continue
            innermost = name == "build_model_with_cfg"
            setattr(module, name, _passing_on(function, pending, everything=innermost))
        try:
            yield
        finally:
            for name, function in kept.items():
                setattr(module, name, function)


def repeats_of(spec: ModelSpec) -> tuple[int, ...] | None:
    """The number of blocks of each stage, None where the model's file does not decode stages from strings."""
    from growtool.checkpoint.skeleton import build

    wanted = spec.model_args.get(REPEATS)
    if wanted is not None:
        return tuple(wanted)
    module = sys.modules[home_module(replace(spec, architecture=base_architecture(spec)))]
    found: list[tuple[int, ...]] = []
    decode = vars(module).get(_DECODER)
    if decode is None:
        return None

    @functools.wraps(decode)
    def watching(*args: Any, **kwargs: Any) -> Any:
        stages = decode(*args, **kwargs)
        found.append(tuple(len(stage) for stage in stages))
        return stages

    with _patching:
        setattr(module, _DECODER, watching)
        try:
            build(spec)
        finally:
            setattr(module, _DECODER, decode)
    return found[-1] if found else None


def _repeating(decode: Callable[..., Any], repeats: Sequence[int]) -> Callable[..., Any]:
    """The decoder, giving each stage so many blocks; further ones are like its last."""

    @functools.wraps(decode)
    def call(*args: Any, **kwargs: Any) -> Any:
        stages = decode(*args, **kwargs)
        counts = [len(stage) for stage in stages]
        if len(repeats) != len(stages) or not all(isinstance(n, int) and n > 0 for n in repeats):
            raise ValueError(f"{REPEATS}: found {list(repeats)}, expected {len(stages)} whole numbers such as {counts}")
        return [
            [*stage[:count], *(copy.deepcopy(stage[-1]) for _ in range(count - len(stage)))]
            for stage, count in zip(stages, repeats, strict=True)
        ]

    return call


def _is_builder(function: FunctionType, module: ModuleType) -> bool:
    """A private function of the file that takes the variant's name and any keyword arguments."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return function.__module__ == module.__name__ and takes_any and next(iter(parameters), "") == "variant"


def _passing_on(function: FunctionType, pending: dict[str, Any], *, everything: bool) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name in pending.keys() & signature.parameters.keys():
            bound.arguments[name] = pending.pop(name)
        if everything:
            if "cfg" in pending:  # timm hands a class its configuration under this name
                pending["model_cfg"] = pending.pop("cfg")
            bound.arguments["kwargs"] = {**bound.arguments.get("kwargs", {}), **pending}
            if "model_cfg" in pending:
                bound.arguments["model_cfg"] = bound.arguments["kwargs"].pop("model_cfg")
        return function(*bound.args, **bound.kwargs)

    return call
