"""Calls that are traced in a canonical form, so that source and target run the same operations at different sizes.

- An index by a list of consecutive positions, `x[..., [-2], :]`, becomes a slice. A lookup would fix the whole axis;
  beside a slice, the other positions may grow.
- An einsum of two tensors becomes one batched matrix product. torch drops dimensions of size 1 from it, and so computes
  a model with a single head by other operations than one with two.
- Average pooling with a window larger than the image becomes the mean over the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.overrides import TorchFunctionMode


class Canonical(TorchFunctionMode):
    """While active, such calls run in their canonical form, with the same results."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__:
            args = (args[0], as_slice(args[1]))
        elif func in (torch.einsum, avg_pool2d) and not kwargs:
            result = as_product(*args) if func is torch.einsum else as_mean(*args)
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def as_slice(index: Any) -> Any:
    """Return an index with its one list of consecutive positions as a slice; any other index as it is."""
    parts = index if isinstance(index, tuple) else (index,)
    lists = [part for part in parts if isinstance(part, list)]
    # torch pairs a list with a second list, a number or a tensor element by element, which a slice does not do
    alone = all(part is None or part is ... or isinstance(part, slice | list) for part in parts)
    if len(lists) != 1 or not alone or not _is_consecutive(lists[0]):
        return index
    first, last = lists[0][0], lists[0][-1]
    window = slice(first, None if last == -1 else last + 1)  # a stop of 0 would be the first position
    return tuple(window if isinstance(part, list) else part for part in parts)


def _is_consecutive(positions: list[Any]) -> bool:
    if not positions or not all(type(position) is int for position in positions):  # a bool is a mask
        return False
    first = positions[0]
    return positions == list(range(first, first + len(positions))) and (first >= 0 or positions[-1] < 0)


def as_product(equation: Any, *operands: Any) -> Tensor | None:
    """Return an einsum of two tensors, computed as a batched matrix product; None if it cannot be.

    Letters of both operands that stay in the result are the batch. A letter that is summed over has to be in both
    operands.
    """
    inputs, arrow, out = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    words = inputs.split(",")
    if len(operands) != 2 or len(words) != 2 or not arrow or not all(isinstance(x, Tensor) for x in operands):
        return None
    (left, right), (a, b) = words, operands
    plain = all(len(set(word)) == len(word) and word.isalpha() for word in (left, right, out))
    batch = [letter for letter in left if letter in right and letter in out]
    summed = [letter for letter in left if letter in right and letter not in out]
    rows, columns = ([letter for letter in word if letter in out and letter not in batch] for word in (left, right))
    if not plain or not summed or {*left, *right} != {*batch, *summed, *rows, *columns} or a.dtype != b.dtype:
        return None
    sizes = dict(zip(left, a.shape, strict=True))
    if any(sizes.get(letter, size) != size for letter, size in zip(right, b.shape, strict=True)):
        return None  # einsum broadcasts a dimension of size 1

    sizes |= dict(zip(right, b.shape, strict=True))

    def flattened(x: Tensor, word: str, *dims: Sequence[str]) -> Tensor:
        """Return an operand with one dimension for each sequence of letters."""
        in_order = x.permute([word.index(letter) for letters in dims for letter in letters])
        return in_order.reshape([math.prod(sizes[letter] for letter in letters) for letters in dims])

    product = flattened(a, left, batch, rows, summed) @ flattened(b, right, batch, summed, columns)
    kept = [*batch, *rows, *columns]
    return product.reshape([sizes[letter] for letter in kept]).permute([kept.index(letter) for letter in out])


def as_mean(
    image: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    """Return an average pooling, computed as a mean, if it has a single window that covers the image; else None.

    The arguments are those of `avg_pool2d`. In ceil mode, a window that reaches beyond the image averages over the
    positions inside it.
    """
    windows = [kernel, kernel if stride is None else stride]
    smallest = min(size for given in windows for size in (given if isinstance(given, list | tuple) else (given,)))
    covers = ceil_mode and padding in (0, (0, 0)) and divisor is None and smallest >= max(image.shape[-2:])
    return image.mean((-2, -1), keepdim=True) if covers else None
