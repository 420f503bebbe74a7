"""The parts that options of a training are declared with: their flags on the command line, and types of values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from growtool.plan.section import problem


@dataclass(frozen=True, slots=True)
class Flag:
    """The flag of an option on the command line. Options without a flag are set by `--set`.

    Attributes:
        metavar: name of the value in the help; None for one made from the type.
        panel: the heading below which `--help-all` shows the flag; None for a flag that `--help` shows, too.
        shown: the default in words.
        short: another name of one letter, such as `-o`.
        help: help of the flag that turns the option off, for an option that is on by default.
    """

    metavar: str | None = None
    panel: str | None = None
    shown: str | None = None
    short: str | None = None
    help: str | None = None


def _whole(value: Any) -> Any:
    """Return a float that is whole as an int: people write 1e3 for counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def as_tuple(value: Any) -> Any:
    """Return a list of YAML as a tuple, as pydantic's strict mode demands for one; other values as they are."""
    return tuple(value) if isinstance(value, list) else value


def _crop(value: Any) -> Any:
    numbers = value if isinstance(value, list | tuple) else ()
    is_pair = len(numbers) == 2 and not any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers)
    if value is not None and not (is_pair and 0 < numbers[0] <= numbers[1] <= 1):
        raise problem(f"found {value!r}, expected two numbers with 0 < LOW <= HIGH <= 1, e.g. [0.3, 1.0]")
    return as_tuple(value)


Count = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Number = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Amount = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]  # a share below the whole
FilePath = Annotated[Path, BeforeValidator(_path, json_schema_input_type=str)]
Source = Annotated[str, BeforeValidator(_text)]
"""A checkpoint as it was typed: `./resnet50` is a path and `resnet50` a name, which a `Path` would not tell apart."""
Crop = Annotated[tuple[float, float] | None, BeforeValidator(_crop)]
