"""Multiply-accumulates (MACs) of operations, from the sizes of their tensors.

Convolutions, matrix products and attention are counted, with one MAC for each multiplication and its addition. Norms,
activations, pooling, softmax and all elementwise operations are not; they are one to six per cent of a model's
arithmetic.
"""

from __future__ import annotations

import math

from growtool.trace.table.kinds import Operation, Sizes


def of_product(operation: Operation, sizes: Sizes) -> int:
    """Return the MACs of a matrix product [..., N, I] @ [..., I, O]: each value of the result sums I products."""
    return math.prod(sizes(operation.outs[0])) * sizes(operation.args[0])[-1]


def of_added_product(operation: Operation, sizes: Sizes) -> int:
    """Return the MACs of a matrix product whose factors stand behind a tensor that is added."""
    return math.prod(sizes(operation.outs[0])) * sizes(operation.args[1])[-1]


def of_convolution(operation: Operation, sizes: Sizes) -> int:
    """Return the MACs of a convolution.

    Each weight is used once for every image and position of the result; of the input, if it is transposed.
    """
    transposed = operation.args[6]
    images, _, *positions = sizes(operation.args[0] if transposed else operation.outs[0])
    return images * math.prod(positions) * math.prod(sizes(operation.args[1]))


def of_attention(operation: Operation, sizes: Sizes) -> int:
    """Return the MACs of attention: of queries by keys, and of the attention weights by values."""
    query, key, value = map(sizes, operation.args[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
