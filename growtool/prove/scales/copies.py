"""What copies of channels bring in where a sum runs over them: a factor at each position of an axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.prove.scales.values import Factors, ScaledValues, along, simplified
from growtool.trace import Axis, ChannelGroup, groups_on
from growtool.trace.axes import factor_size


class Copies:
    """The copies of channels, and the terms that sums over them have added to the linear system.

    Args:
        expansions: how each channel group grows; groups that stay may be absent.
        values: the factors of the pass.

    Attributes:
        groups: term of what copies bring in -> their channel group.
    """

    def __init__(self, expansions: Mapping[ChannelGroup, Expansion], values: ScaledValues) -> None:
        self._expansions, self._values = expansions, values
        self.groups: dict[int, ChannelGroup] = {}

    def over(
        self,
        axis: Axis,
        power: float = 1,
        *,
        split: bool = False,
        among: Callable[[ChannelGroup], bool] = lambda _: True,
    ) -> tuple[Factors, list[int]]:
        """Return what a sum over an axis multiplies by at each position: the copies of the channel there, to a power.

        Args:
            axis: what is summed over.
            power: -1 for a mean or a split, 1/2 for a Euclidean length.
            split: whether a weight that is split among the copies, or the split itself, is what it is about.
            among: the channel groups that count.

        Returns:
            The factors [positions], and the new terms.
        """
        terms = list[int]()

        def times(group: ChannelGroup) -> int:
            if group not in self._copies or not among(group):
                return 0
            copies, uneven = self._copies[group]
            term = self._values.scales.change(copies**power, uneven=uneven)
            terms.append(term)
            self.groups[term] = group
            number = self._values.number_of(term)
            if uneven and not split:  # some terms count more often than others: no multiple of the source's sum
                self._values.require_one(number)
            return number

        copied = any(group in self._copies for group in groups_on(axis))
        return self._along(axis, times) if copied else 0, terms

    @cached_property
    def _copies(self) -> dict[ChannelGroup, tuple[float, bool]]:
        """How many copies the channels of each group have, blanks aside, and whether that is uneven.

        An uneven group has unlike numbers of copies. A number that no other uneven group has stands for them, so that
        what it brings in cancels against its own inverse alone.
        """
        copies = {}
        for place, (group, expansion) in enumerate(self._expansions.items()):
            if not expansion.is_identity and expansion.copies != 1:
                uneven = expansion.copies is None
                copies[group] = float(expansion.copies or 2 + place / 7), uneven
        return copies

    def _along(self, axis: Axis, times: Callable[[ChannelGroup], int]) -> Factors:
        """Return the factor at each position of an axis, given the factor of each channel group on it."""
        parts = list[Tensor]()
        for segment in axis:
            # a segment is a row-major product: each position has the product of the factors of its coordinates
            part: Factors = 0
            size = 1
            for factor in segment:
                inner = times(factor) if isinstance(factor, ChannelGroup) else self._along(factor, times)
                length = factor_size(factor)
                part = self._values.product(along(part, 1), inner)
                size *= length
                part = part if isinstance(part, int) else part.expand(size // length, length).reshape(-1)
            parts.append(torch.as_tensor(part).expand(size))
        return simplified(torch.cat(parts))
