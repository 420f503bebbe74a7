"""An open door beside timm's closed ones.

Many entry points of timm fix their widths in code and refuse to be told otherwise (`got multiple values for keyword
argument 'channel_multiplier'`). `growtool_open` is a timm model of its own: it calls such an entry point and lays its
arguments over those that timm's builders would pass on. What is built, and how, stays timm's.

    timm.create_model("growtool_open", base="mobilenetv3_small_050", channel_multiplier=2.0)

Numbers inside nested configurations are reached by paths (`growtool.checkpoint.paths`):

    timm.create_model("growtool_open", base="hgnetv2_b0", **{"cfg.stage*.3": [1, 1, 4, 1]})

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
from dataclasses import dataclass, replace
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.paths import is_path, repeated, root_of, set_at

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint.spec import ModelSpec

OPEN = "growtool_open"
REPEATS = "repeats"
_DECODER = "decode_arch_def"  # timm's function from strings to stages, each a list of blocks
_INNERMOST = "build_model_with_cfg"  # timm's function that calls the class
_FOR_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_patching = threading.RLock()


def growtool_open(base: str, eps_of: Mapping[str, float] | None = None, **kwargs: Any) -> nn.Module:
    """The timm model `base` with arguments that its entry point refuses.

    Args:
        base: a name of timm's registry.
        eps_of: path of a norm -> its eps, which timm's constructors keep to themselves.
        kwargs: arguments of the builders of its file (`channel_multiplier`, ...) or of its class (`embed_dim`, ...);
            paths into arguments of its class, such as `cfg.blocks.*.d` or `cfgs.*.*.times`, see
            `growtool.checkpoint.paths`; `repeats`, a list of the number of blocks of each stage, where the file decodes
            stages from strings.

    Raises:
        TypeError: neither the builders nor the class take one of the arguments.
        ValueError: a path leads nowhere, or a list has not as many values as there are places.
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


def configuration(spec: ModelSpec) -> dict[str, Any]:
    """The arguments that the class of the spec's model is given, its defaults included, with nothing repeated yet."""
    from timm.models import model_entrypoint

    args = dict(opened(spec).model_args)
    entrypoint = model_entrypoint(args.pop("base"))
    seen: dict[str, Any] = {}
    args = {name: value for name, value in args.items() if name not in ("eps_of", *_FOR_TIMM)}
    with _overridden(sys.modules[entrypoint.__module__], args, seen), contextlib.suppress(_SeenError):
        entrypoint()
    return seen


class _SeenError(Exception):
    """Enough has been seen: the model need not be built."""


@contextlib.contextmanager
def _overridden(module: ModuleType, overrides: Mapping[str, Any], seen: dict[str, Any] | None = None) -> Iterator[None]:
    """While open, the builders of a model file pass `overrides` on, whatever the entry point says.

    Args:
        module: the file.
        overrides: arguments and paths into arguments.
        seen: is filled with the arguments of the class, which is then not called.
    """
    plain = {name: value for name, value in overrides.items() if not is_path(name)}
    paths = {name: value for name, value in overrides.items() if is_path(name)}
    builders = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and (name == _INNERMOST or _is_builder(value, module))
    }
    with _patching:
        decode = vars(module).get(_DECODER) if REPEATS in plain else None
        decoded: list[Any] = []
        kept = {**builders, **({_DECODER: decode} if decode else {})}
        laid = _Laid(plain, paths, decoded, plain.pop(REPEATS) if decode else None, seen)
        if decode:
            setattr(module, _DECODER, _watching(decode, decoded))
        for name, function in builders.items():
            setattr(module, name, _passing_on(function, plain, laid if name == _INNERMOST else None))
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
    found: list[list[Any]] = []
    decode = vars(module).get(_DECODER)
    if decode is None:
        return None
    with _patching:
        setattr(module, _DECODER, _watching(decode, found))
        try:
            build(spec)
        finally:
            setattr(module, _DECODER, decode)
    return tuple(map(len, found[-1])) if found else None


def _watching(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    """The function, noting what it returns."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(function(*args, **kwargs))
        return results[-1]

    return call


def _lengthened(stages: Sequence[Sequence[Any]], repeats: Sequence[int]) -> list[list[Any]]:
    """Each stage with so many blocks; further ones are like its last."""
    counts = [len(stage) for stage in stages]
    if len(repeats) != len(stages) or not all(isinstance(n, int) and n > 0 for n in repeats):
        raise ValueError(f"{REPEATS}: found {list(repeats)}, expected {len(stages)} whole numbers such as {counts}")
    return [
        [*stage[:count], *(copy.deepcopy(stage[-1]) for _ in range(count - len(stage)))]
        for stage, count in zip(stages, repeats, strict=True)
    ]


def _is_builder(function: FunctionType, module: ModuleType) -> bool:
    """A private function of the file that takes the variant's name and any keyword arguments."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return function.__module__ == module.__name__ and takes_any and next(iter(parameters), "") == "variant"


@dataclass(frozen=True)
class _Laid:
    """What is laid over the arguments of a class.

    Attributes:
        plain: arguments that no builder has taken.
        paths: path into an argument -> value.
        decoded: what the file's decoder has returned so far.
        repeats: blocks of each decoded stage.
        seen: see `_overridden`.
    """

    plain: Mapping[str, Any]
    paths: Mapping[str, Any]
    decoded: Sequence[Any]
    repeats: Sequence[int] | None
    seen: dict[str, Any] | None

    def over(self, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the class.

        Raises:
            TypeError: a path starts with no argument of the class, or the decoded stages are none of them.
            ValueError: see `growtool.checkpoint.paths`.
        """
        args = {**given, **self.plain}
        stages = [name for name, value in args.items() if any(value is result for result in self.decoded)]
        defaults = _defaults(cls)
        for name in dict.fromkeys(map(root_of, self.paths)):
            if name not in args and name not in defaults:
                raise TypeError(
                    f"{cls.__name__} has no argument {name!r}, expected one of {', '.join(args | defaults)}"
                )
            args[name] = set_at(args.get(name, defaults.get(name)), self._into(name))
        if self.seen is not None:
            self.seen.update(defaults | args)
            raise _SeenError
        for name in dict.fromkeys(map(root_of, self.paths)):
            args[name] = repeated(args[name], self._into(name))
        if self.repeats is not None and not stages:
            raise TypeError(f"{REPEATS}: {cls.__name__} takes no stages decoded from strings")
        return args | {name: _lengthened(args[name], self.repeats or ()) for name in stages}

    def _into(self, name: str) -> dict[str, Any]:
        return {path: value for path, value in self.paths.items() if root_of(path) == name}


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _passing_on(function: FunctionType, pending: dict[str, Any], laid: _Laid | None) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name in pending.keys() & signature.parameters.keys():
            bound.arguments[name] = pending.pop(name)
        if laid:
            given = bound.arguments.get("kwargs", {})
            config = bound.arguments.get("model_cfg")  # timm hands it to the class as `cfg`
            made = laid.over(bound.arguments["model_cls"], given if config is None else {**given, "cfg": config})
            if config is not None or "cfg" in pending:
                bound.arguments["model_cfg"] = made.pop("cfg")
            bound.arguments["kwargs"] = made
        return function(*bound.args, **bound.kwargs)

    return call
