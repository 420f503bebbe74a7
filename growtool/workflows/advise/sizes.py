"""The sizes that a model can have within a budget: wider, deeper, and both."""

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
from growtool.library.values import leaves
from growtool.plan.target import Scale, factor_as_written
from growtool.recipe.target.size_arguments import SizeArguments
from growtool.recipe.target.spec import scaled_spec
from growtool.recipe.traced_model import TracedModel
from growtool.report.macs import count_macs
from growtool.workflows.advise.budget import DEPTH_SHARE, SizeBudget

_FINEST = 16  # the finest step of width factors is one sixteenth
_T = TypeVar("_T")
_DEEPEST = 8.0  # the largest factor for the number of blocks
Blocks = (
    tuple[int, ...] | Fraction
)  # blocks of each stage; or one factor for several stacks, such as encoder and decoder
Shape = tuple[Fraction | None, Blocks | None]  # factor of the width, and blocks; None leaves the axis as it is


@dataclass(frozen=True, slots=True)
class Size:
    """The MACs of one input, and the number of parameters."""

    macs: int
    params: int

    def within(self, other: Size, budget: SizeBudget, share: float = 1.0) -> bool:
        """Return whether this is no larger than a share of the budget (in orders of magnitude) lets `other` become."""
        own, base = (self.macs, other.macs) if budget.unit == "macs" else (self.params, other.params)
        return own <= base * math.pow(budget.factor, share)


def size_of(spec: ModelSpec, model: nn.Module, *, spent: bool = False) -> Size:
    """Return the size of a model without weights; for `spent` see `count_macs`."""
    macs = count_macs(spec, model, spent=spent).total
    return Size(macs, sum(p.numel() for p in model.parameters()))


class Scaling:
    """The sizes of a model when numbers of its constructor are scaled.

    Args:
        base: the model that is scaled; see `growtool.recipe.target.spec.scalable`.
        source: the size of the source.
        size_arguments: the arguments that scale each axis.
        budget: the largest size.
    """

    def __init__(self, base: TracedModel, source: Size, size_arguments: SizeArguments, budget: SizeBudget) -> None:
        self.base, self.source, self._budget = base, source, budget
        self._size_arguments = size_arguments
        self._depth_name = next(iter(size_arguments.depth), None)
        self.size = cache(self._size)

    @property
    def width_factors(self) -> list[Fraction]:
        """The ascending factors above 1 for which every width is whole; the last ones exceed the budget."""
        widths = self._size_arguments.width
        counts = [count for _, count in self._size_arguments.counts(widths)]
        step = math.gcd(*counts) if counts else _FINEST
        step = max((d for d in range(1, step + 1) if step % d == 0 and d <= _FINEST), default=1)
        if not widths:
            return []
        return _above_one(step, self._budget.factor + 1)

    @property
    def depths(self) -> Sequence[Sequence[Blocks]]:
        """Numbers of blocks larger than the source's, in order; all stages grow by about the same factor.

        There are up to two lists. The first adds blocks in pairs, if all stages have even numbers, because two kinds of
        blocks may take turns (the shifted windows of Swin).
        """
        if self._depth_name is None:
            return []
        if len(self._size_arguments.together) > 1:
            return [self._factors(self._size_arguments.together)]
        value = self._size_arguments.depth[self._depth_name]
        growing = {place: int(n) for place, n in self._size_arguments.numbers(self._depth_name).items()}
        source = tuple(int(n) for n in leaves(value) if not isinstance(n, str))
        units = (2, 1) if all(n % 2 == 0 for n in growing.values()) else (1,)
        return [self._deeper(source, growing, unit) for unit in units]

    def _factors(self, stacks: Sequence[str]) -> list[Fraction]:
        """Return the factors that give each stack a whole number of blocks."""
        counts = [count for _, count in self._size_arguments.counts(stacks)]
        return _above_one(math.gcd(*counts), self._most_blocks)

    @property
    def _most_blocks(self) -> float:
        """The largest factor for the number of blocks that is tried."""
        return min(_DEEPEST, 2 * self._budget.factor)

    def _deeper(self, source: tuple[int, ...], growing: Mapping[int, int], unit: int) -> list[tuple[int, ...]]:
        """Return the blocks of all stages for ascending factors; those that grow are multiples of `unit`."""

        def deeper(factor: float) -> tuple[int, ...]:
            return tuple(unit * round(n * factor / unit) if p in growing else n for p, n in enumerate(source))

        steps = 2 * max(growing.values())
        found = [deeper(k / steps) for k in range(steps + 1, math.ceil(steps * self._most_blocks))]
        return [depths for depths in dict.fromkeys(found) if depths != source]

    def spec(self, width: Fraction | None, depths: Blocks | None) -> ModelSpec:
        """Return the spec that a plan with this scale leads to.

        Raises:
            PlanError: a width or a number of blocks would not be whole.
        """
        scale = scale_of((width, depths))
        if not scale:
            return self.base.spec
        return scaled_spec(Scale.model_validate(scale), self.base, self._size_arguments)[0]

    def _size(self, width: Fraction | None, depths: Blocks | None) -> Size | None:
        try:
            spec = self.spec(width, depths)
            model = build(spec)
        except GrowtoolError:
            return None
        return size_of(spec, model, spent=True)

    def shapes(self, axis: str) -> tuple[list[Shape], list[Shape]]:
        """Return sizes for an axis: those within the budget, largest first; those beyond it, smallest first."""
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
        """Return depths within a share of the budget and beyond, from the first list of `depths` that has any."""
        within, beyond = list[Shape](), list[Shape]()
        for depths in self.depths:
            within, beyond = self._split([(None, blocks) for blocks in depths], share)
            if within:
                break
        return within, beyond

    def _widened(self, depths: Blocks | None) -> tuple[list[Shape], list[Shape]]:
        return self._split([(factor, depths) for factor in self.width_factors])

    def _split(self, shapes: list[Shape], share: float = 1.0) -> tuple[list[Shape], list[Shape]]:
        """Return the sizes that fit a share of the budget, largest first, and those that do not."""

        def fits(shape: Shape) -> bool | None:
            size = self.size(*shape)
            return None if size is None else size.within(self.source, self._budget, share)

        guess = sum(self._foreseen(*shape) <= math.pow(self._budget.factor, share) for shape in shapes)
        within, beyond = split(shapes, fits, guess)
        return within[::-1], beyond

    def _foreseen(self, width: Fraction | None, depths: Blocks | None) -> float:
        """Return a guess of the growth in size: the square of the width factor times the factor of the blocks."""
        deeper = 1.0
        if isinstance(depths, Fraction):
            deeper = float(depths)
        elif depths is not None and self._depth_name is not None:
            source = [n for n in leaves(self._size_arguments.depth[self._depth_name]) if not isinstance(n, str)]
            deeper = sum(depths) / sum(source)
        return float(width or 1) ** 2 * deeper


def scale_of(shape: Shape) -> dict[str, Any]:
    """Return `target.scale` of the plan for a size."""
    width, depths = shape
    scale: dict[str, Any] = {}
    if width:
        scale["width"] = factor_as_written(width)
    if depths:
        scale["depth"] = factor_as_written(depths) if isinstance(depths, Fraction) else list(depths)
    return scale


def _above_one(step: int, end: float) -> list[Fraction]:
    """Return the multiples of `1 / step` above 1 and below `end`."""
    return [Fraction(k, step) for k in range(step + 1, math.ceil(step * end))]


def split(candidates: Sequence[_T], fits: Callable[[_T], bool | None], guess: int) -> tuple[list[_T], list[_T]]:
    """Split candidates into those that fit and those that do not; those that cannot be built are left out.

    This is a galloping search: building a model takes most of a second, and a good guess is near the answer.

    Args:
        candidates: in the order of their size.
        fits: whether a candidate fits; None if it cannot be built.
        guess: about how many fit; the search starts there and goes out in steps that double.
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
