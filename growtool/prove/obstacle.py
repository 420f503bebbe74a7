"""Why a grown model computes another function: as data, with the sentence that users read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal, get_args

Section = Literal["width", "depth", "target"]  # of a plan
SECTIONS: tuple[Section, ...] = get_args(Section)


class Why(Enum):
    """What stands in the way."""

    BY_NAME = auto()  # the operator is known for it
    OPERATIONS = auto()  # source and target run others, or with other numbers
    VALUES = auto()  # they run the same on other values
    UNEVEN = auto()  # some channels have more copies than others
    JOINTLY = auto()  # channels are treated jointly in a way that copies change
    BLANKS = auto()  # something does not let channels that copy none pass
    MEAN = auto()  # a mean remains that cannot be taken off
    TWO_SOURCES = auto()  # the halves of two sources meet
    GROUPS = auto()  # channels that are one group in the source are several here, or the other way round
    TIES = auto()  # tensors under several names
    BUFFERS = auto()  # the constructor fills them otherwise
    EPS = auto()  # a norm would need another
    STATISTICS = auto()  # estimated anew
    ADVICE = auto()  # what to do about the others


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason.

    Attributes:
        why: of what sort it is.
        text: where and what, for users.
        about: the section of the plan that brings it about by accident; None where an operator is known for it.
    """

    why: Why
    text: str
    about: Section | None = None


def obstacles(why: Why, texts: Iterable[str]) -> list[Obstacle]:
    """Reasons of one sort."""
    return [Obstacle(why, text) for text in texts]


def blamed(found: Iterable[Obstacle], section: Section | None) -> list[Obstacle]:
    """The same reasons as accidents of a section of the plan."""
    return [replace(obstacle, about=section) for obstacle in found]
