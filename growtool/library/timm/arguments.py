"""What a model of timm was constructed with, whatever the constructor calls it."""

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
    """Arguments of the model's class and of the functions of its file that lead there, defaults included.

    A configuration object among them is replaced by its fields: timm lays keyword arguments over those.

    Args:
        model: was built before.
        build: builds it again; is watched.
    """
    seen: dict[str, Any] = {}
    classes = itertools.takewhile(lambda cls: cls is not nn.Module, type(model).__mro__)
    innermost: CodeType = [vars(cls)["__init__"].__code__ for cls in classes if "__init__" in vars(cls)][-1]
    home = inspect.getfile(type(model))

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and (code.co_filename == home or code is innermost):
            seen.update((name, frame.f_locals[name]) for name in _argument_names(code))
            if code is innermost:
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
