"""Laying arguments over those that timm's builders pass on, whatever the entry point of a model says.

The builders of a model file call timm's `build_model_with_cfg`, and that calls the class. While a file is overridden,
both are given other arguments; the file is left as it was.
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

REPEATS = "repeats"
DECODER = "decode_arch_def"  # timm's function from strings to stages, each a list of blocks
_INNERMOST = "build_model_with_cfg"  # timm's function that calls the class
patching = threading.RLock()


class SeenError(Exception):
    """Enough has been seen: the model need not be built."""


@contextlib.contextmanager
def overridden(module: ModuleType, overrides: Mapping[str, Any], seen: dict[str, Any] | None = None) -> Iterator[None]:
    """While open, the builders of a model file pass `overrides` on, whatever the entry point says.

    Args:
        module: the file.
        overrides: arguments and paths into arguments.
        seen: is filled with the arguments of the class, which is then not called.

    Raises:
        TypeError: there are paths, and the file builds in another way.
    """
    plain = {name: value for name, value in overrides.items() if not is_path(name)}
    paths = {name: value for name, value in overrides.items() if is_path(name)}
    builders = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and (name == _INNERMOST or _is_builder(value, module))
    }
    with patching:
        decode = vars(module).get(DECODER) if REPEATS in plain else None
        decoded: list[Any] = []
        kept = {**builders, **({DECODER: decode} if decode else {})}
        laid = _Laid(plain, paths, decoded, plain.pop(REPEATS) if decode else None, seen)
        if decode:
            setattr(module, DECODER, watching(decode, decoded))
        for name, function in builders.items():
            setattr(module, name, _passing_on(function, plain, laid if name == _INNERMOST else None))
        try:
            yield
            if paths and not laid.used:
                raise TypeError(f"{next(iter(paths))}: {module.__name__} builds without {_INNERMOST}, paths need it")
        finally:
            for name, function in kept.items():
                setattr(module, name, function)


def watching(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
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
        seen: see `overridden`.
        used: holds the class once it has been given its arguments.
    """

    plain: Mapping[str, Any]
    paths: Mapping[str, Any]
    decoded: Sequence[Any]
    repeats: Sequence[int] | None
    seen: dict[str, Any] | None
    used: list[type] = field(default_factory=list)

    def over(self, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the class.

        Raises:
            TypeError: a path starts with no argument of the class, or the decoded stages are none of them.
            ValueError: see `growtool.library.paths`.
        """
        self.used.append(cls)
        args = {**given, **self.plain}
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
        if self.repeats is not None and not stages:
            raise TypeError(f"{REPEATS}: {cls.__name__} takes no stages decoded from strings")
        return args | {name: _lengthened(args[name], self.repeats or ()) for name in stages}

    def _into(self, name: str) -> dict[str, Any]:
        return {path: value for path, value in self.paths.items() if root_of(path) == name}


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
