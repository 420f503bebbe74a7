"""What the options of a training are made of: how one stands on the command line, and the kinds of values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from growtool.plan.section import problem


@dataclass(frozen=True, slots=True)
class Flag:
    """How an option stands on the command line; those without one are said by `--set`.

    Attributes:
        metavar: what the help calls its value; None: by its type.
        panel: the heading below which `--help-all` alone shows it; None: `--help` shows it, too.
        shown: its default in words.
        short: another name, of one letter.
        help: of a flag that says the opposite of the option.
    """

    metavar: str | None = None
    panel: str | None = None
    shown: str | None = None
    short: str | None = None
    help: str | None = None


def _whole(value: Any) -> Any:
    """1e3 is a whole number, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def as_tuple(value: Any) -> Any:
    """A list of YAML as what a frozen section keeps."""
    return tuple(value) if isinstance(value, list) else value


def _crop(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) else ()
    whole = len(numbers) == 2 and not any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
    if value is not None and not (whole and 0 < numbers[0] <= numbers[1] <= 1):
        raise problem(f"found {value!r}, expected two numbers with 0 < LOW <= HIGH <= 1, e.g. [0.3, 1.0]")
    return as_tuple(value)


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Number = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Amount = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
FilePath = Annotated[Path, BeforeValidator(_path, json_schema_input_type=str)]
Source = Annotated[str, BeforeValidator(_text)]
"""A checkpoint as it was typed: `./resnet50` is a path and `resnet50` a name, which a `Path` would not tell apart."""
Crop = Annotated[tuple[float, float] | None, BeforeValidator(_crop)]
