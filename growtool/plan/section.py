"""Sections: the base classes of every mapping of a plan, and of other files that are read from YAML.

Values are taken literally: no string becomes a number and no number a truth value. Unknown keys are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from growtool.errors import LARGEST


class Section(BaseModel):
    """A mapping in a file. The docstring of a subclass is what its JSON schema and `growtool explain` show to users."""

    SHORT: ClassVar[Mapping[str, str]] = {}  # key -> field: the key stands for one of the same name inside the field
    KEYS: ClassVar[str] = ""  # in words, which keys there are; for messages, where a list would be too long
    ALONE: ClassVar[Mapping[str, Any] | None] = None  # JSON schema of a lone value that may stand for the mapping
    NULL: ClassVar[bool] = False  # whether a file may give null for a field that is unset
    DECIDED: ClassVar[frozenset[str]] = frozenset()  # fields that something else decides, so that a file must not
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        """Return the value; raise an error for an integer that torch cannot take."""
        if isinstance(value, int) and value > LARGEST:
            raise problem(f"found {value}, expected an integer of less than 64 bits")
        return value


def problem(text: str) -> PydanticCustomError:
    """Return an error for a validator to raise, with the message `text`.

    pydantic fills braces in a template from the context: the text goes through it, as its own braces have to stay.
    """
    return PydanticCustomError("plan", "{text}", {"text": text})


def by_operator(sections: Any) -> dict[str, type[Operator]]:
    """Return the sections of a union by the names of their operators."""
    return {section.model_fields["operator"].default: section for section in get_args(sections)}


def named(value: Any) -> Any:
    """Return a mapping with nothing but the operator for its lone name; any other value as it is."""
    return {"operator": value} if isinstance(value, str) else value


class Operator(Section):
    """A width or depth operator, with its options."""

    LOSS: ClassVar[str | None] = None  # why it changes the function of any model, whatever its options
    operator: str

    @property
    def loss(self) -> str | None:
        """Why the operator with these options changes the function of any model, or None if it keeps functions.

        A plan that names such an operator needs no consent to a loss. A plan whose operator keeps the functions of
        other models, and not of this one, does.
        """
        return self.LOSS


class ShrinkPerturb(Operator):
    """The source shrunk, padded with zeros, and the target's initial values added.

    It makes the whole target, wider or deeper, and so stands under `width` and `depth` alike.

    Attributes:
        shrink: lambda, what the source's matrices are multiplied by; 1 only adds the initial values, 0 leaves nothing
            else of matrices.
    """

    LOSS = "shrink_perturb shrinks what was trained and adds initial values"
    operator: Literal["shrink_perturb"] = "shrink_perturb"
    shrink: float = Field(default=0.4, ge=0, le=1)


class SeesImages(Operator):
    """What needs the images of `data`."""


class Learned(SeesImages):
    """What is learned on the images of `data`, and then written out as weights.

    Attributes:
        steps: updates, each on one batch of `data`; the batches come round again.
        lr: learning rate of AdamW.
    """

    steps: int = Field(default=100, ge=1)
    lr: float = Field(default=1e-3, gt=0)
