"""What every mapping of a plan has in common.

Values are taken literally: no string becomes a number and no number a truth value. Unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from growtool.errors import LARGEST


class Section(BaseModel):
    """A mapping of the plan."""

    SHORT: ClassVar[Mapping[str, str]] = {}  # keys beside its fields that are short for a key within one of these
    KEYS: ClassVar[str] = ""  # what its keys are, where they are too many to be listed
    ALONE: ClassVar[Mapping[str, Any] | None] = None  # the JSON schema of what may stand in its place
    NULL: ClassVar[bool] = False  # whether a file may give null for what is unset
    DECIDED: ClassVar[frozenset[str]] = frozenset()  # fields that a file must not give where the section stands
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        """Refuse integers that torch cannot take."""
        if isinstance(value, int) and value > LARGEST:
            raise problem(f"found {value}, expected an integer of less than 64 bits")
        return value


def problem(text: str) -> PydanticCustomError:
    """An error whose message is `text`, braces and all."""
    return PydanticCustomError("plan", "{text}", {"text": text})


def by_operator(sections: Any) -> dict[str, type[Section]]:
    """The sections of a union under the names of their operators."""
    return {section.model_fields["operator"].default: section for section in get_args(sections)}


def named(value: Any) -> Any:
    """The name of an operator stands for a mapping with that operator and nothing else."""
    return {"operator": value} if isinstance(value, str) else value


class SeesImages(Section):
    """What needs the images of `data`."""

    operator: str


class Learned(SeesImages):
    """What is learned on the images of `data`, and then written out as weights.

    Attributes:
        steps: updates, each on one batch of `data`; the batches come round again.
        lr: learning rate of AdamW.
    """

    operator: Literal["ligo", "mixing"]
    steps: int = Field(default=100, ge=1)
    lr: float = Field(default=1e-3, gt=0)
