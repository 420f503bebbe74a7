"""Finding the arguments that a model of timm was constructed with, by watching its construction."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from torch import nn


def constructor_values(model: nn.Module, build: Callable[[], object]) -> dict[str, Any]:
    """Return the arguments of the model's class and of the functions of its file that lead there, defaults included.

    They include the fields of every configuration object among them, since timm's builders replace those by keyword
    arguments of the same names.

    Args:
        model: the model, built before.
        build: builds the same model again; it is watched.
    """
    seen: dict[str, Any] = {}
    classes = itertools.takewhile(lambda cls: cls is not nn.Module, type(model).__mro__)
    # The arguments of a class may be those of a base class in another file (deit.py's VisionTransformerDistilled).
    innermost: CodeType = [vars(cls)["__init__"].__code__ for cls in classes if "__init__" in vars(cls)][-1]
    home = inspect.getfile(type(model))

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and (code.co_filename == home or code is innermost):
            # A later call is further in, so its values replace those of an earlier one.
            seen.update((name, frame.f_locals[name]) for name in _argument_names(code))
            if code is innermost:  # the calls from here on build the layers
                sys.settrace(before)

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        build()
    finally:
        sys.settrace(before)
    for value in list(seen.values()):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            seen.update({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, dict):
            seen.update({name: part for name, part in value.items() if isinstance(name, str)})
    return seen


def _argument_names(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
