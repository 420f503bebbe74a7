"""The factors of a tensor's values, which may be several: those of queries, keys and values packed in one, say.

A tensor of numbers of factors stands for the tensor of values; what only moves values is run on the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from growtool.library import leaves_of
from growtool.prove.scales.log_scales import ZERO, Log, LogScales, added, alone
from growtool.trace.steps import Ref, Step

Factors = int | Tensor  # the number of a factor, or several that broadcast to the tensor's shape


class ScaledValues:
    """Factors by their numbers, and what is required of them; number 0 is 1."""

    def __init__(self) -> None:
        self.scales = LogScales()
        self._logs: list[Log] = [ZERO]
        self._numbers: dict[Log, int] = {ZERO: 0}

    def number(self, log: Log) -> int:
        """The number of a factor."""
        if log not in self._numbers:
            self._numbers[log] = len(self._logs)
            self._logs.append(log)
        return self._numbers[log]

    def number_of(self, term: int) -> int:
        """The number of a factor that is one term of the system."""
        return self.number(alone(term))

    def times(self, a: Factors, b: Factors, power: int = 1) -> Factors:
        """The factors of a product `a b^power`."""
        return self._paired(a, b, lambda x, y: self.number(added(self._logs[x], self._logs[y], power)))

    def alike(self, a: Factors, b: Factors) -> Factors:
        """Require equal factors, place by place, and return them."""

        def first(x: int, y: int) -> int:
            self.scales.require(added(self._logs[x], self._logs[y], -1))
            return x

        return self._paired(a, b, first)

    def one(self, factors: Factors) -> int:
        """Require the same factor at all places, and return it."""
        if isinstance(factors, int):
            return factors
        first, *others = factors.unique().tolist()
        for other in others:
            self.alike(first, other)
        return int(first)

    def unscaled(self, *factors: Factors) -> None:
        """Require factors of 1."""
        for own in factors:
            self.alike(self.one(own), 0)

    def summed(self, factors: Factors, dims: Sequence[int]) -> Factors:
        """Require the same factor along dimensions that are summed over, counted from the last (-1), and drop these."""
        if isinstance(factors, int):
            return factors
        for dim in sorted(dim + factors.ndim for dim in dims if dim + factors.ndim >= 0)[::-1]:
            if factors.shape[dim] > 1:
                return self.one(factors)
            factors = factors.squeeze(dim)
        return simple(factors)

    def _paired(self, a: Factors, b: Factors, function: Callable[[int, int], int]) -> Factors:
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        pairs, places = torch.unique(torch.as_tensor(a) * len(self._logs) + torch.as_tensor(b), return_inverse=True)
        count = len(self._logs)
        found = [function(pair // count, pair % count) for pair in pairs.tolist()]
        return simple(torch.tensor(found)[places])


def simple(factors: Tensor) -> Factors:
    """One position in place of a dimension along which nothing varies; one number where nothing does at all."""
    for dim, size in enumerate(factors.shape):
        first = factors.narrow(dim, 0, 1) if size else factors
        if size > 1 and (factors.stride(dim) == 0 or bool((factors == first).all())):
            factors = first
    return factors if factors.numel() > 1 else int(factors.sum())


def moved(step: Step, known: Mapping[int, Tensor]) -> list[Factors]:
    """What only moves values, run on the numbers of their factors: one result for each of the operation's."""
    args, kwargs = tree_map(
        lambda leaf: known[leaf.number] if isinstance(leaf, Ref) else leaf, (step.args, dict(step.kwargs))
    )
    kwargs.pop("memory_format", None)
    name = "reshape" if step.name in ("view", "_unsafe_view") else step.name  # strides may be others here
    result = getattr(torch.ops.aten, name)(*args, **kwargs)
    return list(map(simple, leaves_of(result)))
