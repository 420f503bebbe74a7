"""Factors of a tensor's values, of which there may be several: queries, keys and values packed in one tensor, say.

Every factor has a number. A tensor of such numbers stands for the tensor of values, with one position along every
dimension in which the factor does not vary; an operation that only moves values is run on the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from growtool.library import leaves_of
from growtool.prove.scales.log_scales import ZERO, Log, LogScales, added, alone
from growtool.trace.steps import Ref, Step

Factors = int | Tensor  # the number of the one factor, or int64 numbers that broadcast to the tensor's shape


class ScaledValues:
    """The factors of a pass by their numbers, and the linear system of what is required of them; number 0 is 1."""

    def __init__(self) -> None:
        self.scales = LogScales()
        self._logs: list[Log] = [ZERO]
        self._numbers: dict[Log, int] = {ZERO: 0}

    def number(self, log: Log) -> int:
        """Return the number of a factor."""
        if log not in self._numbers:
            self._numbers[log] = len(self._logs)
            self._logs.append(log)
        return self._numbers[log]

    def number_of(self, term: int) -> int:
        """Return the number of the factor that is one term of the linear system."""
        return self.number(alone(term))

    def product(self, a: Factors, b: Factors, power: int = 1) -> Factors:
        """Return the factors of a product `a b^power`."""
        return self._by_pairs(a, b, lambda x, y: self.number(added(self._logs[x], self._logs[y], power)))

    def require_equal(self, a: Factors, b: Factors) -> Factors:
        """Require that a and b are equal at every position, and return a."""

        def first(x: int, y: int) -> int:
            self.scales.require(added(self._logs[x], self._logs[y], -1))
            return x

        return self._by_pairs(a, b, first)

    def require_uniform(self, factors: Factors) -> int:
        """Require the same factor at all positions, and return it."""
        if isinstance(factors, int):
            return factors
        first, *others = factors.unique().tolist()
        for other in others:
            self.require_equal(first, other)
        return int(first)

    def require_one(self, *factors: Factors) -> None:
        """Require that all factors are 1."""
        for each in factors:
            self.require_equal(self.require_uniform(each), 0)

    def summed(self, factors: Factors, dims: Sequence[int]) -> Factors:
        """Return the factors of a sum over dimensions, which are dropped; along each the factor has to be the same.

        Args:
            factors: of what is summed.
            dims: counted from the last, which is -1: `factors` may lack leading dimensions.
        """
        if isinstance(factors, int):
            return factors
        for dim in sorted(dim + factors.ndim for dim in dims if dim + factors.ndim >= 0)[::-1]:
            if factors.shape[dim] > 1:
                return self.require_uniform(factors)
            factors = factors.squeeze(dim)
        return simplified(factors)

    def _by_pairs(self, a: Factors, b: Factors, function: Callable[[int, int], int]) -> Factors:
        """Return `function(a, b)` by position, computed once for every pair of numbers that occurs."""
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        count = len(self._logs)  # `function` may add numbers
        pairs, places = torch.unique(torch.as_tensor(a) * count + torch.as_tensor(b), return_inverse=True)
        results = [function(pair // count, pair % count) for pair in pairs.tolist()]
        return simplified(torch.tensor(results)[places])


def along(factors: Factors, dims_after: int) -> Factors:
    """Return factors [n] along a dimension, broadcast to a tensor that has so many dimensions behind it."""
    return factors if isinstance(factors, int) else factors.reshape(-1, *[1] * dims_after)


def simplified(factors: Tensor) -> Factors:
    """Keep one position of each dimension along which nothing varies; return a plain number where nothing varies."""
    for dim, size in enumerate(factors.shape):
        first = factors.narrow(dim, 0, 1) if size else factors
        # a stride of 0 is an expanded dimension: nothing varies along it, and nothing need be compared
        if size > 1 and (factors.stride(dim) == 0 or bool((factors == first).all())):
            factors = first
    return factors if factors.numel() > 1 else int(factors.sum())


def moved(step: Step, known: Mapping[int, Tensor]) -> list[Factors]:
    """Run an operation that only moves values on the numbers of their factors, and return those of each result.

    Args:
        step: the operation.
        known: number of a tensor that it reads -> int64 of its shape, the factor of each value.
    """
    args, kwargs = tree_map(
        lambda leaf: known[leaf.number] if isinstance(leaf, Ref) else leaf, (step.args, dict(step.kwargs))
    )
    kwargs.pop("memory_format", None)
    # numbers were broadcast, so their strides are not those of the model's tensor, and a view may not be possible
    name = "reshape" if step.name in ("view", "_unsafe_view") else step.name
    result = getattr(torch.ops.aten, name)(*args, **kwargs)
    return list(map(simplified, leaves_of(result)))
