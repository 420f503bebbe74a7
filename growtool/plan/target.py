"""The target of a plan."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from growtool.plan.section import Section, problem

_QUOTIENT = re.compile(r"^[0-9]+\s*/\s*[1-9][0-9]*$")
_LARGEST = 1000  # factor, and denominator of a factor that is written as a fraction
_Factor = Annotated[float, Field(ge=1)] | Annotated[str, Field(pattern=_QUOTIENT.pattern)]
_Blocks = Annotated[int, Field(ge=1)]


def factor_text(factor: float | Fraction) -> str:
    """Return a factor as a plan says it: a decimal number of up to six digits if that is exact, else a fraction.

    A float that is no fraction with a small denominator is rounded to six digits.
    """
    exact = factor if isinstance(factor, Fraction) else Fraction(factor).limit_denominator(_LARGEST)
    decimal = f"{float(factor):g}"
    if Fraction(decimal) == exact or not math.isclose(exact, factor, rel_tol=1e-12):
        return decimal
    return str(exact)


def factor_as_written(factor: float | Fraction) -> int | float | str:
    """Return a factor as a plain value for a file, see `factor_text`."""
    text = factor_text(factor)
    return text if "/" in text else int(text) if text.isdecimal() else float(text)


def _factor(value: Any) -> Any:
    """Return a fraction such as `4/3` as a number, and any other value as it is; refuse what is too large."""
    if isinstance(value, str):
        if not _QUOTIENT.fullmatch(value):
            raise problem(f"found {value!r}, expected a number of at least 1, such as 2 or 4/3")
        value = Fraction("".join(value.split()))
    if isinstance(value, int | float | Fraction) and _LARGEST < value < math.inf:
        raise problem(f"found more than {_LARGEST}, expected a factor of at most that")
    return float(value) if isinstance(value, Fraction) else value


def _stage_depths(value: Any) -> Any:
    """Return a factor as a float, or a list of block counts as a tuple; raise one message for all that it is not."""

    def is_count(item: object) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and item >= 1

    if isinstance(value, list | tuple) and value and all(map(is_count, value)):
        return tuple(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < math.inf:
        return float(value)
    raise problem(
        f"found {value!r}, expected a number of at least 1, such as 2 or 4/3, or a list with the number of blocks of "
        "each stage"
    )


class Scale(Section):
    """A target by factors of the source; a lone number is the factor of every width.

    Attributes:
        width: factor for every width, at least 1; fractions such as `4/3` are numbers, too.
        depth: factor for the number of blocks of every stage, at least 1; or the number of blocks of each stage.
    """

    ALONE: ClassVar[Mapping[str, Any]] = {
        "type": ["number", "string"],
        "minimum": 1,
        "pattern": _QUOTIENT.pattern,
    }
    width: Annotated[float | None, BeforeValidator(_factor, json_schema_input_type=_Factor)] = Field(default=None, ge=1)
    depth: Annotated[  # pydantic runs the last BeforeValidator first: fractions are numbers before they are checked
        float | tuple[int, ...] | None,
        BeforeValidator(_stage_depths),
        BeforeValidator(_factor, json_schema_input_type=_Factor | tuple[_Blocks, ...]),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _lone_width(cls, value: Any) -> Any:
        lone = isinstance(value, int | float | str) and not isinstance(value, bool)
        return {"width": value} if lone else value

    @model_validator(mode="after")
    def _says_something(self) -> Scale:
        if self.width is None and self.depth is None:
            raise problem("found neither width nor depth, expected at least one of them")
        return self


class Target(Section):
    """What to grow to; a lone name is that of another timm model.

    Attributes:
        model: another timm model.
        model_args: other arguments for the source's constructor, or for `model`'s; `null` takes timm's default.
        scale: factors of the source.
    """

    ALONE: ClassVar[Mapping[str, Any]] = {"type": "string"}
    model: str | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)
    scale: Scale | None = None

    @model_validator(mode="before")
    @classmethod
    def _lone_model(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_one_target(self) -> Target:
        named = [name for name, value in (("model", self.model), ("model_args", self.model_args)) if value]
        if self.scale is not None and named:
            raise problem(f"found scale together with {' and '.join(named)}, expected scale alone")
        if self.scale is None and not named:
            raise problem("found none of model, model_args and scale, expected one of them")
        return self
