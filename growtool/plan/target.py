"""What a plan grows to."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from growtool.plan.section import Section, problem


def _stage_depths(value: Any) -> Any:
    def whole(item: object) -> bool:
        return isinstance(item, int) and not isinstance(item, bool) and item >= 1

    if isinstance(value, list | tuple) and value and all(map(whole, value)):
        return tuple(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < math.inf:
        return float(value)
    raise problem(
        f"found {value!r}, expected a number of at least 1, or a list with the number of blocks of each stage"
    )


class Scale(Section):
    """A target by factors of the source.

    Attributes:
        width: factor for every width, at least 1.
        depth: factor for the number of blocks of every stage, at least 1; or the number of blocks of each stage.
    """

    width: float | None = Field(default=None, ge=1)
    depth: Annotated[float | tuple[int, ...] | None, BeforeValidator(_stage_depths)] = None

    @model_validator(mode="after")
    def _says_something(self) -> Scale:
        if self.width is None and self.depth is None:
            raise problem("found neither width nor depth, expected at least one of them")
        return self


class Target(Section):
    """What to grow to.

    Attributes:
        model: another timm model.
        model_args: other arguments for the source's constructor, or for `model`'s; `null` takes timm's default.
        scale: factors of the source.
    """

    model: str | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)
    scale: Scale | None = None

    @model_validator(mode="after")
    def _is_one_target(self) -> Target:
        named = [name for name, value in (("model", self.model), ("model_args", self.model_args)) if value]
        if self.scale is not None and named:
            raise problem(f"found scale together with {' and '.join(named)}, expected scale alone")
        if self.scale is None and not named:
            raise problem("found none of model, model_args and scale, expected one of them")
        return self
