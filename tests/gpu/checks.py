"""A check of the script."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """Attributes:

    part: letter of the part it belongs to.
    name: for the report.
    act: makes it; returns what was found, raises AssertionError where that is wrong and `Skip` where it cannot be made.
    """

    part: str
    name: str
    act: Callable[[], str]
