"""How far a model can be scaled within a budget, by width, by depth and by both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from growtool.advise.budget import Budget
from growtool.advise.guidelines import DEPTH_SHARE
from growtool.checkpoint import ModelSpec, build, input_size
from growtool.errors import CheckpointError
from growtool.recipe.arguments import Value, as_lists, leaves, scaled, with_leaves
from growtool.recipe.knobs import Knobs
from growtool.report.macs import count_macs

_FINEST = 16  # width factors are tried in steps of one sixteenth at the finest
_T = TypeVar("_T")
_DEEPEST = 8.0  # times as many blocks at most


@dataclass(frozen=True, slots=True)
class Size:
    """MACs of one image, and parameters."""

    macs: int
    params: int

    def within(self, other: Size, budget: Budget, share: float = 1.0) -> bool:
        """Whether this is at most as large as a share of the budget (in orders of magnitude) allows `other` to grow."""
        own, base = (self.macs, other.macs) if budget.unit == "macs" else (self.params, other.params)
        return own <= base * math.pow(budget.factor, share)


class Scaling:
    """The sizes a model takes when its constructor's numbers are scaled."""

    def __init__(self, base: ModelSpec, knobs: Knobs, budget: Budget) -> None:
        self._base, self._knobs, self._budget = base, knobs, budget
        self._depth_name = next(iter(knobs.depth), None)
        self.size = cache(self._size)
        self.unchanged = self._depths(1.0)
        self.source = self.size(1.0, self.unchanged)
        assert self.source is not None, "the source itself can be built"

    @property
    def width_factors(self) -> list[float]:
        """Factors above 1 that leave every count whole, in order, up to where the budget ends at the latest."""
        counts = [n for value in self._knobs.width.values() for n in _numbers(value) if isinstance(n, int)]
        step = math.gcd(*counts) if counts else _FINEST
        step = max((d for d in range(1, step + 1) if step % d == 0 and d <= _FINEST), default=1)
        if not self._knobs.width:
            return []
        return [k / step for k in range(step + 1, math.ceil(step * (self._budget.factor + 1)))]

    @property
    def depths(self) -> list[tuple[int, ...]]:
        """Numbers of blocks above the source's, in order; stages grow alike, by whole pairs where they can."""
        if self._depth_name is None:
            return []
        steps = 2 * max(n for n in _numbers(self._knobs.depth[self._depth_name]) if isinstance(n, int))
        top = min(_DEEPEST, 2 * self._budget.factor)
        found = [self._depths(k / steps) for k in range(steps + 1, math.ceil(steps * top))]
        return [depths for depths in dict.fromkeys(found) if depths != self.unchanged]

    def _depths(self, factor: float) -> tuple[int, ...]:
        if self._depth_name is None:
            return ()
        counts = [int(n) for n in _numbers(self._knobs.depth[self._depth_name]) if isinstance(n, int | float)]
        pairs = all(n % 2 == 0 for n in counts)  # blocks may come in two kinds by turns
        return tuple(n if n == 1 else 2 * round(n * factor / 2) if pairs else round(n * factor) for n in counts)

    def _size(self, width: float, depths: tuple[int, ...]) -> Size | None:
        args: dict[str, Value] = {name: scaled(value, width) for name, value in self._knobs.width.items()}
        if self._depth_name is not None:
            args[self._depth_name] = with_leaves(self._knobs.depth[self._depth_name], depths)
        try:
            model = build(self._base.with_args(**{name: as_lists(value) for name, value in args.items()}))
        except CheckpointError:
            return None
        return Size(count_macs(model, input_size(model)).total, sum(p.numel() for p in model.parameters()))

    def widest(self, depths: tuple[int, ...] | None = None) -> float | None:
        """The largest width factor within the budget, beside `depths` if given; None where not even the least fits."""
        fixed = depths or self.unchanged
        return _last(self.width_factors, lambda factor: self._fits(factor, fixed, 1.0))

    def deepest(self, share: float = 1.0) -> tuple[int, ...] | None:
        """The most blocks within a share of the budget."""
        return _last(self.depths, lambda depths: self._fits(1.0, depths, share))

    def balanced(self) -> tuple[float, tuple[int, ...]] | None:
        """Depth up to its share of the budget, the least there is otherwise, and the width that the rest allows."""
        shared = self.deepest(DEPTH_SHARE)
        for depths in ([shared] if shared else []) + self.depths[:1]:
            width = self.widest(depths)
            if width:
                return width, depths
        return None

    def _fits(self, width: float, depths: tuple[int, ...], share: float) -> bool:
        size = self.size(width, depths)
        return size is not None and self.source is not None and size.within(self.source, self._budget, share)


def _numbers(value: Value) -> list[int | float]:
    return [part for part in leaves(value) if not isinstance(part, str)]


def _last(candidates: Sequence[_T], fits: Callable[[_T], bool]) -> _T | None:
    """The last candidate that fits, found by halving: sizes grow with the candidates."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        if fits(candidates[middle]):
            low = middle + 1
        else:
            high = middle
    return candidates[low - 1] if low else None
