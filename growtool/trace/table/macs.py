"""Multiply-accumulates of operations, from the sizes of their tensors.

What is counted: convolutions, matrix products and attention, one MAC for each multiplication with its addition. What is
not: norms, activations, pooling, softmax and anything element-wise (one to six per cent of a model's arithmetic).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias


class _Operation(Protocol):
    @property
    def args(self) -> tuple[Any, ...]: ...

    @property
    def outs(self) -> tuple[Any, ...]: ...


# the sizes of a tensor among the arguments or results
Sizes: TypeAlias = "Callable[[Any], Sequence[int]]"
Count: TypeAlias = "Callable[[_Operation, Sizes], int]"


def of_product(operation: _Operation, sizes: Sizes) -> int:
    """A matrix product: every value of the result is a sum as long as the last dimension of the first factor."""
    return math.prod(sizes(operation.outs[0])) * sizes(operation.args[0])[-1]


def of_added_product(operation: _Operation, sizes: Sizes) -> int:
    """The same, with a tensor to add standing first among the arguments."""
    return math.prod(sizes(operation.outs[0])) * sizes(operation.args[1])[-1]


def of_convolution(operation: _Operation, sizes: Sizes) -> int:
    """A convolution: each weight is used at each place of the result, or of the operand where it is transposed."""
    count, _, *places = sizes(operation.args[0] if operation.args[6] else operation.outs[0])
    return count * math.prod(places) * math.prod(sizes(operation.args[1]))


def of_attention(operation: _Operation, sizes: Sizes) -> int:
    """Attention: queries by keys, then weights by values."""
    query, key, value = map(sizes, operation.args[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
