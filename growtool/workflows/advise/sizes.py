"""How far a model can be scaled within a budget, by width, by depth and by both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeVar

from torch import nn

from growtool.checkpoint import ModelSpec, build
from growtool.errors import GrowtoolError
from growtool.library.values import Value, leaves
from growtool.plan.target import Scale, factor_text
from growtool.recipe.target.size_arguments import SizeArguments
from growtool.recipe.target.spec import scaled_spec
from growtool.recipe.traced_model import TracedModel
from growtool.report.macs import count_macs
from growtool.workflows.advise.budget import DEPTH_SHARE, SizeBudget

_FINEST = 16  # width factors are tried in steps of one sixteenth at the finest
_T = TypeVar("_T")
_DEEPEST = 8.0  # times as many blocks at most
Blocks = tuple[int, ...] | Fraction  # of each stage; or the factor of several stacks, which grow alike
Shape = tuple[Fraction | None, Blocks | None]  # the factor of the width, and the blocks


@dataclass(frozen=True, slots=True)
class Size:
    """MACs of one input, and parameters."""

    macs: int
    params: int

    def within(self, other: Size, budget: SizeBudget, share: float = 1.0) -> bool:
        """Whether this is at most as large as a share of the budget (in orders of magnitude) allows `other` to grow."""
        own, base = (self.macs, other.macs) if budget.unit == "macs" else (self.params, other.params)
        return own <= base * math.pow(budget.factor, share)


def size_of(spec: ModelSpec, model: nn.Module, *, spent: bool = False) -> Size:
    """The size of a model without weights; see `count_macs`."""
    macs = count_macs(spec, model, spent=spent).total
    return Size(macs, sum(p.numel() for p in model.parameters()))


class Scaling:
    """The sizes a model takes when its constructor's numbers are scaled.

    Args:
        base: what is scaled; see `growtool.recipe.target.spec.scalable`.
        traced: the source.
        source: its size.
        size_arguments: which numbers, by axis.
        budget: how large it may become.
    """

    def __init__(
        self, base: ModelSpec, traced: TracedModel, source: Size, size_arguments: SizeArguments, budget: SizeBudget
    ) -> None:
        self.base, self._traced, self.source, self._budget = base, traced, source, budget
        self._size_arguments = size_arguments
        self._depth_name = next(iter(size_arguments.depth), None)
        self.size = cache(self._size)

    @property
    def width_factors(self) -> list[Fraction]:
        """Factors above 1 that leave every count whole, in order, up to where the budget ends at the latest."""
        widths = self._size_arguments.width
        counts = [n for name in widths for n in self._growing(name, widths[name]).values() if isinstance(n, int)]
        step = math.gcd(*counts) if counts else _FINEST
        step = max((d for d in range(1, step + 1) if step % d == 0 and d <= _FINEST), default=1)
        if not widths:
            return []
        return _above_one(step, self._budget.factor + 1)

    @property
    def depths(self) -> Sequence[Sequence[Blocks]]:
        """Numbers of blocks above the source's, each list in order: stages grow alike, and so do several stacks.

        By whole pairs first, where the source has such, since blocks may come in two kinds by turns (Swin's windows).
        """
        if self._depth_name is None:
            return []
        if len(self._size_arguments.together) > 1:
            return [self._factors(self._size_arguments.together)]
        value = self._size_arguments.depth[self._depth_name]
        growing = {place: int(n) for place, n in self._growing(self._depth_name, value).items()}
        source = tuple(int(n) for n in leaves(value) if not isinstance(n, str))
        units = (2, 1) if all(n % 2 == 0 for n in growing.values()) else (1,)
        return [self._deeper(source, growing, unit) for unit in units]

    def _factors(self, stacks: Sequence[str]) -> list[Fraction]:
        """Those that give each stack a whole number of blocks."""
        counts = [int(n) for name in stacks for n in self._growing(name, self._size_arguments.depth[name]).values()]
        return _above_one(math.gcd(*counts), self._most_blocks)

    @property
    def _most_blocks(self) -> float:
        """How many times the source's blocks are tried at most."""
        return min(_DEEPEST, 2 * self._budget.factor)

    def _deeper(self, source: tuple[int, ...], growing: Mapping[int, int], unit: int) -> list[tuple[int, ...]]:
        """By how many blocks: each stage's new ones a multiple of `unit`."""

        def deeper(factor: float) -> tuple[int, ...]:
            return tuple(unit * round(n * factor / unit) if p in growing else n for p, n in enumerate(source))

        steps = 2 * max(growing.values())
        found = [deeper(k / steps) for k in range(steps + 1, math.ceil(steps * self._most_blocks))]
        return [depths for depths in dict.fromkeys(found) if depths != source]

    def _growing(self, name: str, value: Value) -> dict[int, int | float]:
        """Place in a constructor's argument -> the number there, for those that grow."""
        numbers = {place: part for place, part in enumerate(leaves(value)) if not isinstance(part, str)}
        return {place: n for place, n in numbers.items() if place in self._size_arguments.stages.get(name, numbers)}

    def spec(self, width: Fraction | None, depths: Blocks | None) -> ModelSpec:
        """The source's spec with larger arguments, as the plan that says so leads to it.

        Raises:
            PlanError: a count would become a fraction.
        """
        scale = scale_of((width, depths))
        if not scale:
            return self.base
        model, trace = self._traced.model, self._traced.trace
        return scaled_spec(Scale.model_validate(scale), self.base, model, trace, self._size_arguments)[0]

    def _size(self, width: Fraction | None, depths: Blocks | None) -> Size | None:
        try:
            spec = self.spec(width, depths)
            model = build(spec)
        except GrowtoolError:
            return None
        return size_of(spec, model, spent=True)

    def shapes(self, axis: str) -> tuple[list[Shape], list[Shape]]:
        """The sizes of `width`, `depth` or `both`: those within the budget, largest first; larger ones, least first."""
        if axis == "depth":
            return self._deepened()
        if axis == "width":
            return self._widened(None)
        shared = [within[0][1] for within, _ in [self._deepened(DEPTH_SHARE)] if within]
        beyond: list[Shape] = []
        for depths in [*shared, *(least for least, *_ in self.depths)]:
            within, beyond = self._widened(depths)
            if within:
                break
        return within if beyond or shared or self.depths else [], beyond

    def _deepened(self, share: float = 1.0) -> tuple[list[Shape], list[Shape]]:
        """Up to a share of the budget, by the first kind of numbers of blocks that fits at all."""
        within, beyond = list[Shape](), list[Shape]()
        for depths in self.depths:
            within, beyond = self._split([(None, blocks) for blocks in depths], share)
            if within:
                break
        return within, beyond

    def _widened(self, depths: Blocks | None) -> tuple[list[Shape], list[Shape]]:
        return self._split([(factor, depths) for factor in self.width_factors])

    def _split(self, shapes: list[Shape], share: float = 1.0) -> tuple[list[Shape], list[Shape]]:
        """What fits, largest first, and what does not."""

        def fits(shape: Shape) -> bool | None:
            size = self.size(*shape)
            return None if size is None else size.within(self.source, self._budget, share)

        guess = sum(self._foreseen(*shape) <= math.pow(self._budget.factor, share) for shape in shapes)
        within, beyond = split(shapes, fits, guess)
        return within[::-1], beyond

    def _foreseen(self, width: Fraction | None, depths: Blocks | None) -> float:
        """How many times the source: about the square of the width, and as many times as there are blocks."""
        deeper = 1.0
        if isinstance(depths, Fraction):
            deeper = float(depths)
        elif depths is not None and self._depth_name is not None:
            source = [n for n in leaves(self._size_arguments.depth[self._depth_name]) if not isinstance(n, str)]
            deeper = sum(depths) / sum(source)
        return float(width or 1) ** 2 * deeper


def scale_of(shape: Shape) -> dict[str, Any]:
    """`target.scale` of a plan for a shape."""
    width, depths = shape
    scale: dict[str, Any] = {}
    if width:
        scale["width"] = _as_written(width)
    if depths:
        scale["depth"] = _as_written(depths) if isinstance(depths, Fraction) else list(depths)
    return scale


def _as_written(factor: Fraction) -> int | float | str:
    text = factor_text(factor)
    return text if "/" in text else int(text) if text.isdecimal() else float(text)


def _above_one(step: int, end: float) -> list[Fraction]:
    """The factors above 1 and below `end` that are whole numbers of `1 / step`."""
    return [Fraction(k, step) for k in range(step + 1, math.ceil(step * end))]


def split(candidates: Sequence[_T], fits: Callable[[_T], bool | None], guess: int) -> tuple[list[_T], list[_T]]:
    """Those that fit and those that do not: sizes grow with them. Candidates without a size are left out.

    Args:
        candidates: in order of size.
        fits: None for what cannot be built.
        guess: how many fit, about; the search goes out from there in steps that double.
    """
    left = list(candidates)
    low, high, middle, step = 0, len(left), guess - 1, 1
    while low < high:
        middle = min(max(middle, low), high - 1)
        fitting = fits(left[middle])
        if fitting is None:
            del left[middle]
            high -= 1
        elif fitting:
            low = middle + 1
            middle = min(middle + step, (low + high) // 2)
        else:
            high = middle
            middle = max(middle - step, (low + high) // 2)
        step *= 2
    return left[:low], left[low:]
