"""Why a grown model computes another function: as data, with the sentence that users read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal, get_args

Section = Literal["width", "depth", "target"]  # of a plan
SECTIONS: tuple[Section, ...] = get_args(Section)


class Why(Enum):
    """The sort of an obstacle."""

    BY_NAME = auto()  # the operator is known to change functions, whatever the model
    OPERATIONS = auto()  # source and target run other operations, or the same with other numbers
    VALUES = auto()  # they run the same operations on other values
    UNEVEN = auto()  # an average runs over channels of which some have more copies than others
    JOINTLY = auto()  # an operation treats channels jointly in a way that copies change
    BLANKS = auto()  # an operation does not let blank channels pass
    MEAN = auto()  # a mean over channels remains that cannot be taken off
    TWO_SOURCES = auto()  # the halves of two sources meet
    GROUPS = auto()  # channels that are one group in the source are several in the target, or the other way round
    TIES = auto()  # a tensor under several names would have to be made in several ways
    BUFFERS = auto()  # the constructor fills buffers with other values
    EPS = auto()  # a norm would need another eps
    STATISTICS = auto()  # the running statistics of BatchNorm are estimated anew
    ADVICE = auto()  # no obstacle itself, but what to do about the others


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One reason why a grown model computes another function.

    Attributes:
        why: its sort.
        text: where and what, for users.
        about: the section of the plan that brings it about by accident; None where an operator is known for it.
    """

    why: Why
    text: str
    about: Section | None = None


def obstacles(why: Why, texts: Iterable[str]) -> list[Obstacle]:
    """Return obstacles of one sort, with these texts."""
    return [Obstacle(why, text) for text in texts]


def blamed(found: Iterable[Obstacle], section: Section | None) -> list[Obstacle]:
    """Return the same obstacles as accidents of a section of the plan."""
    return [replace(obstacle, about=section) for obstacle in found]
