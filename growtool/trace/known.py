"""Passes on the meta device, where values that are computed from constants alone stay known.

Models ask for some of them to decide what to compute: whether a mask of ones is all ones, how long the longest of equal
sequences is. Values that depend on an input, a parameter or a buffer are not known, and torch refuses a model that asks
for one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from growtool.library import leaves_of
from growtool.trace.table.kinds import Kind
from growtool.trace.table.ops import OPS, name_of

_LARGEST = 1 << 20  # values of a followed tensor; Longformer's mask of its padded window has half of that
_ASKS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))  # operations that read values
_CREATES = frozenset(  # operations that take at most a size and a type from a tensor, never its values
    "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full "
    "arange eye linspace logspace scalar_tensor tril_indices triu_indices".split()
)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Run models on the meta device while open: without torch's slow references, and with known values."""
    with ByShape(), KnownNumbers():
        yield


class ByShape(TorchDispatchMode):
    """While active, operations whose row has a `meta_result` return empty meta tensors as torch would, and at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = name_of(func)
        in_place = name.endswith("_")
        row = OPS.get(name.removesuffix("_"))
        first = args[0] if args else None  # a number in torch.mul(3, 2)
        on_meta = isinstance(first, Tensor) and first.is_meta
        if row is not None and row.meta_result is not None and on_meta and not kwargs:
            if in_place and row.kind is Kind.POINTWISE:
                return first
            # add_ and mul_ may broadcast their other operand, or be refused for its shape or type
            result = NotImplemented if in_place else row.meta_result(*args)
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


class KnownNumbers(TorchDispatchMode):
    """While active, a meta tensor computed from constants alone has its values on the CPU as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = WeakTensorKeyDictionary()  # meta tensor -> its values

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._leads_nowhere(func, args):
            return func(*args, **kwargs)
        operands = leaves_of((args, kwargs))
        on_meta = any(tensor.is_meta for tensor in operands)
        if on_meta and not _ASKS.isdisjoint(func.tags) and all(self._is_known(tensor) for tensor in operands):
            return self._answer(func, args, kwargs)
        result = func(*args, **kwargs)
        results = leaves_of(result)
        if results and all(tensor.is_meta for tensor in results):
            self._follow(func, args, kwargs, operands, results)
        return result

    def _leads_nowhere(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Return whether the first operand alone tells that no values are known of the result.

        This is so for most operations of a model, and spares them the search for all their operands.
        """
        first = args[0] if args else None
        return (
            isinstance(first, Tensor)
            and not self._is_known(first)
            and not func._schema.is_mutable
            and name_of(func) not in _CREATES
        )

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operation whose values or size the meta device cannot tell."""
        numbers = self._on_cpu(func, args, kwargs)
        result = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, numbers)
        self._keep(leaves_of(result), leaves_of(numbers))
        return result

    def _follow(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: tuple[Tensor, ...], results: Any
    ) -> None:
        """Compute the values of an operation's results if they are known; forget those that it has overwritten."""
        small = all(tensor.numel() <= _LARGEST for tensor in results)
        known = bool(operands) and all(self._is_known(tensor) for tensor in operands)
        if small and torch.Tag.nondeterministic_seeded not in func.tags and (known or name_of(func) in _CREATES):
            self._keep(results, leaves_of(self._on_cpu(func, args, kwargs)))
        elif func._schema.is_mutable:
            self._forget(operands)

    def _is_known(self, tensor: Tensor) -> bool:
        return not tensor.is_meta or tensor in self._numbers

    def _on_cpu(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation on the known values; an operand without any is one that it takes a size or type from."""

        def on_cpu(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.is_meta:
                return self._numbers[leaf] if leaf in self._numbers else _stand_in(leaf)
            on_meta = isinstance(leaf, torch.device) and leaf.type == "meta"
            return torch.device("cpu") if on_meta else leaf

        return func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))

    def _keep(self, tensors: tuple[Tensor, ...], numbers: tuple[Tensor, ...]) -> None:
        for tensor, values in zip(tensors, numbers, strict=True):
            self._numbers[tensor] = values

    def _forget(self, written: tuple[Tensor, ...]) -> None:
        """Forget the values of tensors into which unknown ones were written, and of all views of them."""
        spoilt = {_memory(self._numbers[tensor]) for tensor in written if tensor in self._numbers}
        for tensor in [tensor for tensor, values in self._numbers.items() if _memory(values) in spoilt]:
            del self._numbers[tensor]


def _stand_in(tensor: Tensor) -> Tensor:
    """Return a CPU tensor of the type of another and, if that is small enough, of its size."""
    if tensor.numel() <= _LARGEST:
        return torch.empty_like(tensor, device="cpu")
    return tensor.new_empty(0, device="cpu")


def _memory(numbers: Tensor) -> int:
    return numbers.untyped_storage().data_ptr()
