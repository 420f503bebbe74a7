"""Calls that torch takes apart by the sizes it meets, taken apart in one way: source and target then do the same.

A list of consecutive positions, `x[..., [-2], :]`, is a slice: other positions may grow beside it. An einsum of two
tensors is one matrix product; torch leaves out of it what has one position, a single head say, and so computes a model
of one head otherwise than one of two. Pooling with a window that is larger than the image is the mean over the image.
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
    """While active, such calls run in that one way, with the same results."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__:
            args = (args[0], as_slice(args[1]))
        elif func in (torch.einsum, avg_pool2d) and not kwargs:
            found = as_product(*args) if func is torch.einsum else as_mean(*args)
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def as_slice(index: Any) -> Any:
    """An index with its list of consecutive positions as a slice; unchanged where it holds none, or another list too.

    A second list, a number or a tensor is picked together with the first one, position by position.
    """
    parts = index if isinstance(index, tuple) else (index,)
    lists = [part for part in parts if isinstance(part, list)]
    others = all(part is None or part is ... or isinstance(part, slice | list) for part in parts)
    if len(lists) != 1 or not others or not _consecutive(lists[0]):
        return index
    first, last = lists[0][0], lists[0][-1]
    taken = slice(first, None if last == -1 else last + 1)
    return tuple(taken if isinstance(part, list) else part for part in parts)


def _consecutive(positions: list[Any]) -> bool:
    if not positions or not all(type(position) is int for position in positions):
        return False
    first = positions[0]
    return positions == list(range(first, first + len(positions))) and (first >= 0 or positions[-1] < 0)


def as_product(equation: Any, *operands: Any) -> Tensor | None:
    """An einsum of two tensors as a batched matrix product, whatever the sizes; None for any other.

    Dimensions of both that stay are the batch; what is summed over has to be in both.
    """
    given, arrow, out = equation.replace(" ", "").partition("->") if isinstance(equation, str) else ("", "", "")
    names = given.split(",")
    if len(operands) != 2 or len(names) != 2 or not arrow or not all(isinstance(x, Tensor) for x in operands):
        return None
    (left, right), (a, b) = names, operands
    plain = all(len(set(word)) == len(word) and word.isalpha() for word in (left, right, out))
    batch = [name for name in left if name in right and name in out]
    summed = [name for name in left if name in right and name not in out]
    rows, columns = ([name for name in word if name in out and name not in batch] for word in (left, right))
    if not plain or not summed or {*left, *right} != {*batch, *summed, *rows, *columns} or a.dtype != b.dtype:
        return None
    sizes = dict(zip(left, a.shape, strict=True))
    if any(sizes.get(name, size) != size for name, size in zip(right, b.shape, strict=True)):
        return None  # one position stands for many

    sizes |= dict(zip(right, b.shape, strict=True))

    def ordered(x: Tensor, word: str, *groups: Sequence[str]) -> Tensor:
        turned = x.permute([word.index(name) for group in groups for name in group])
        return turned.reshape([math.prod(sizes[name] for name in group) for group in groups])

    product = ordered(a, left, batch, rows, summed) @ ordered(b, right, batch, summed, columns)
    places = [*batch, *rows, *columns]
    return product.reshape([sizes[name] for name in places]).permute([places.index(name) for name in out])


def as_mean(
    image: Tensor,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor | None:
    """Average pooling of which one window covers the image, whatever its size; None for any other."""
    windows = [kernel, kernel if stride is None else stride]
    least = min(size for given in windows for size in (given if isinstance(given, list | tuple) else (given,)))
    covers = ceil_mode and padding in (0, (0, 0)) and divisor is None and least >= max(image.shape[-2:])
    return image.mean((-2, -1), keepdim=True) if covers else None
