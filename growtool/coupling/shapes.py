"""What comes out of operations on the meta device, by shape alone, where torch works it out through Python references.

A batch norm takes torch some 3 ms there, which is most of a pass through a convolutional network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ByShape(TorchDispatchMode):
    """While active, the operations of `SHAPED` on meta tensors give empty tensors of the form that torch would give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        shaped = SHAPED.get(func._schema.name.removeprefix("aten::"))
        if shaped is not None and args[0].is_meta and not kwargs:
            found = shaped(*args)
            if found is not NotImplemented:
                return found
        return func(*args, **(kwargs or {}))


def _batch_norm(x_NC: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x_NC), _statistics(x_NC, x_NC.shape[1]), _statistics(x_NC, x_NC.shape[1])


def _layer_norm(x: Tensor, normalised: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[: x.ndim - len(normalised)], *(1 for _ in normalised))
    return x.new_empty(x.shape), _statistics(x, *shape), _statistics(x, *shape)


def _statistics(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.promote_types(x.dtype, torch.float32))


def _alike(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _itself(x: Tensor, *_: Any) -> Tensor:
    return x


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


def _addmm(bias: Tensor, a_NI: Tensor, b_IO: Tensor) -> Tensor:
    return a_NI.new_empty((a_NI.shape[0], b_IO.shape[1]))


def _by_element(x: Tensor, y: Any, *_: Any) -> Any:
    """Of two tensors that are alike, or a tensor and a number that leaves its type as it is."""
    if isinstance(y, Tensor):
        alike = (x.shape, x.dtype, x.stride()) == (y.shape, y.dtype, y.stride()) and y.is_meta
    else:
        alike = x.is_floating_point() and isinstance(y, int | float)
    return torch.empty_like(x) if alike else NotImplemented


SHAPED: dict[str, Callable[..., Any]] = {
    "native_batch_norm": _batch_norm,
    "native_layer_norm": _layer_norm,
    "gelu": _alike,
    "hardswish": _alike,
    "hardsigmoid": _alike,
    "gelu_": _itself,
    "hardswish_": _itself,
    "hardsigmoid_": _itself,
    "_safe_softmax": _softmax,
    "add": _by_element,
    "mul": _by_element,
    "addmm": _addmm,
}
