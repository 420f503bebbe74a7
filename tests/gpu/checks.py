"""A check of the script."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """Attributes:

    part: letter of the part it belongs to.
    name: for the report.
    act: makes it; returns what was found, raises AssertionError where that is wrong and `Skip` where it cannot be made.
    seconds: that it may take on an H100-class GPU; it does not begin where fewer are left.
    """

    part: str
    name: str
    act: Callable[[], str]
    seconds: float = 4.0
