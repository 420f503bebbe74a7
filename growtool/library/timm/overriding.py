"""Replacing arguments on their way from a timm entry point to the class of the model.

An entry point of a model file calls a builder of that file (`_gen_mobilenet_v3(variant, ..., **kwargs)`), the builder
calls timm's `build_model_with_cfg`, and that calls the class. While a file is overridden, its builders and
`build_model_with_cfg` are wrapped by functions that replace arguments. The file is left as it was.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from growtool.library.paths import is_path, repeated, root_of, set_at
from growtool.library.values import defaults_of

REPEATS = "repeats"  # argument of `growtool_open`: the number of blocks of each stage
_DECODER = "decode_arch_def"  # timm's function from strings to stages, each a list of blocks
_INNERMOST = "build_model_with_cfg"  # timm's function that calls the class
_patching = threading.RLock()  # held while functions of a model file are replaced, which all threads would see


class SeenError(Exception):
    """Raised in the place of a call of the class once its arguments are known: the model need not be built."""


@contextlib.contextmanager
def overridden(
    module: ModuleType, overrides: Mapping[str, Any], seen: dict[str, Any] | None = None
) -> Iterator[Sequence[Sequence[Any]]]:
    """While open, make the builders of a model file use other arguments than its entry points give them.

    Yields the results of the file's decoder, as they come; nothing comes where it describes no stages in strings.

    Args:
        module: the model file.
        overrides: values of arguments, and of paths into arguments.
        seen: if given, it is filled with the arguments of the class, and SeenError is raised instead of the call.

    Raises:
        TypeError: there are paths, and the file does not build by `build_model_with_cfg`.
    """
    plain = {name: value for name, value in overrides.items() if not is_path(name)}
    paths = {name: value for name, value in overrides.items() if is_path(name)}
    builders = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and (name == _INNERMOST or _is_builder(value, module))
    }
    with _patching:
        decode = vars(module).get(_DECODER)
        decoded: list[Any] = []
        kept = {**builders, **({_DECODER: decode} if decode else {})}
        repeats = plain.pop(REPEATS, None) if decode else None
        # All wrappers share `plain`: each takes what its function has a parameter for, and the class gets the rest.
        of_class = _ClassOverrides(plain, paths, decoded, repeats, seen)
        if decode:
            setattr(module, _DECODER, _watching(decode, decoded))
        for name, function in builders.items():
            setattr(module, name, _passing_on(function, plain, of_class if name == _INNERMOST else None))
        try:
            yield decoded
            if paths and not of_class.used:
                raise TypeError(f"{next(iter(paths))}: {module.__name__} builds without {_INNERMOST}, paths need it")
        finally:
            for name, function in kept.items():
                setattr(module, name, function)


def _watching(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    """Return the function in a wrapper that appends its results to a list."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        results.append(function(*args, **kwargs))
        return results[-1]

    return call


def _lengthened(stages: Sequence[Sequence[Any]], repeats: Sequence[int]) -> list[list[Any]]:
    """Return stages with these numbers of blocks, further ones as copies of the last one of their stage."""
    counts = [len(stage) for stage in stages]
    if len(repeats) != len(stages) or not all(isinstance(n, int) and n > 0 for n in repeats):
        raise ValueError(f"{REPEATS}: found {list(repeats)}, expected {len(stages)} whole numbers such as {counts}")
    return [
        [*stage[:count], *(copy.deepcopy(stage[-1]) for _ in range(count - len(stage)))]
        for stage, count in zip(stages, repeats, strict=True)
    ]


def _is_builder(function: FunctionType, module: ModuleType) -> bool:
    """Return whether a function of a file takes the variant's name first and any keyword arguments, as builders do."""
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return function.__module__ == module.__name__ and takes_any and next(iter(parameters), "") == "variant"


@dataclass(frozen=True)
class _ClassOverrides:
    """The arguments that replace those of a class.

    Attributes:
        plain: arguments that no builder has taken, at the time of the call.
        paths: path into an argument -> value.
        decoded: the results of the file's decoder so far.
        repeats: the number of blocks of each decoded stage; None for those of the file.
        seen: see `overridden`.
        used: the class, once its arguments have been replaced.
    """

    plain: Mapping[str, Any]
    paths: Mapping[str, Any]
    decoded: Sequence[Any]
    repeats: Sequence[int] | None
    seen: dict[str, Any] | None
    used: list[type] = field(default_factory=list)

    def applied(self, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a class, which the model file would call with the arguments `given`.

        Raises:
            TypeError: a path starts with no argument of the class, or the class does not take the decoded stages.
            ValueError: see `growtool.library.paths`.
        """
        self.used.append(cls)
        args = {**given, **self.plain}
        # Found by identity, before paths make changed copies of them.
        stages = [name for name, value in args.items() if any(value is result for result in self.decoded)]
        defaults = defaults_of(cls)
        for name in dict.fromkeys(map(root_of, self.paths)):
            if name not in args and name not in defaults:
                raise TypeError(
                    f"{cls.__name__} has no argument {name!r}, expected one of {', '.join(args | defaults)}"
                )
            args[name] = set_at(args.get(name, defaults.get(name)), self._into(name))
        if self.seen is not None:
            self.seen.update(defaults | args)
            raise SeenError
        for name in dict.fromkeys(map(root_of, self.paths)):
            args[name] = repeated(args[name], self._into(name))
        if self.repeats is None:
            return args
        if not stages:
            raise TypeError(f"{REPEATS}: {cls.__name__} takes no stages decoded from strings")
        return args | {name: _lengthened(args[name], self.repeats) for name in stages}

    def _into(self, name: str) -> dict[str, Any]:
        """Return the paths into one argument."""
        return {path: value for path, value in self.paths.items() if root_of(path) == name}


def _passing_on(
    function: FunctionType, pending: dict[str, Any], of_class: _ClassOverrides | None
) -> Callable[..., Any]:
    """Return a builder in a wrapper that replaces arguments.

    Args:
        function: a builder, or `build_model_with_cfg`.
        pending: arguments that no builder has taken yet; those that the function takes are removed.
        of_class: replaces the arguments of the class; for `build_model_with_cfg` alone.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name in pending.keys() & signature.parameters.keys():
            bound.arguments[name] = pending.pop(name)
        if of_class:
            given = bound.arguments.get("kwargs", {})
            # timm hands `model_cfg` to the class as `cfg`, unless it is None.
            config = bound.arguments.get("model_cfg")
            given = given if config is None else {**given, "cfg": config}
            replaced = of_class.applied(bound.arguments["model_cls"], given)
            bound.arguments["model_cfg"] = replaced.pop("cfg", None)
            bound.arguments["kwargs"] = replaced
        return function(*bound.args, **bound.kwargs)

    return call
