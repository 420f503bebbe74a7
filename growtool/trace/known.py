"""Numbers that stay known on the meta device: those that no parameter, no buffer and no input has a part in.

Models ask for some of them to decide what to compute: whether a mask of ones is all ones, how long the longest of equal
sequences is. What depends on the input or on the weights is not known, and torch refuses a model that asks for it.
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
from growtool.trace.table.shapes import ByShape

_LARGEST = 1 << 20  # numbers of a tensor that is followed
_ASKS = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
_MADE = frozenset(
    "zeros ones full zeros_like ones_like full_like new_zeros new_ones new_full "
    "arange eye linspace logspace scalar_tensor tril_indices triu_indices".split()
)
"""Operations that take at most a form from tensors."""


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """While open, models run on the meta device: fast, and with what is known of their numbers."""
    with ByShape(), KnownNumbers():
        yield


class KnownNumbers(TorchDispatchMode):
    """While active, what is made of constants alone on the meta device has its numbers on the CPU as well."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._is_of_no_use(func, args):
            return func(*args, **kwargs)
        taken = leaves_of((args, kwargs))
        on_meta = any(tensor.is_meta for tensor in taken)
        if on_meta and not _ASKS.isdisjoint(func.tags) and all(self._is_known(tensor) for tensor in taken):
            return self._answer(func, args, kwargs)
        result = func(*args, **kwargs)
        made = leaves_of(result)
        if made and all(tensor.is_meta for tensor in made):
            self._follow(func, args, kwargs, taken, made)
        return result

    def _is_of_no_use(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether its first operand is enough to tell that nothing is known of the result: so it is of most."""
        first = args[0] if args else None
        return (
            isinstance(first, Tensor)
            and not self._is_known(first)
            and not func._schema.is_mutable
            and _name(func) not in _MADE
        )

    def _answer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an operation of which the meta device cannot tell it, or its size."""
        found = self._on_cpu(func, args, kwargs)
        result = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, found)
        self._keep(leaves_of(result), leaves_of(found))
        return result

    def _follow(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], taken: tuple[Tensor, ...], made: Any
    ) -> None:
        """Take in what an operation has made on meta."""
        small = all(tensor.numel() <= _LARGEST for tensor in made)
        known = bool(taken) and all(self._is_known(tensor) for tensor in taken)
        if small and torch.Tag.nondeterministic_seeded not in func.tags and (known or _name(func) in _MADE):
            self._keep(made, leaves_of(self._on_cpu(func, args, kwargs)))
        elif func._schema.is_mutable:
            self._forget(taken)

    def _is_known(self, tensor: Tensor) -> bool:
        return not tensor.is_meta or tensor in self._numbers

    def _on_cpu(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation on the numbers; of what it takes the size from alone, those do not matter."""

        def on_cpu(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.is_meta:
                return self._numbers[leaf] if leaf in self._numbers else _blank(leaf)
            on_meta = isinstance(leaf, torch.device) and leaf.type == "meta"
            return torch.device("cpu") if on_meta else leaf

        return func(*tree_map(on_cpu, args), **tree_map(on_cpu, kwargs))

    def _keep(self, made: tuple[Tensor, ...], numbers: tuple[Tensor, ...]) -> None:
        for tensor, found in zip(made, numbers, strict=True):
            self._numbers[tensor] = found

    def _forget(self, written: tuple[Tensor, ...]) -> None:
        """Something unknown was written: it stands in every view of the same numbers."""
        spoilt = {_place(self._numbers[tensor]) for tensor in written if tensor in self._numbers}
        for tensor in [tensor for tensor, found in self._numbers.items() if _place(found) in spoilt]:
            del self._numbers[tensor]


def _name(func: Any) -> str:
    return str(func._schema.name.removeprefix("aten::"))


def _blank(tensor: Tensor) -> Tensor:
    """Of the size of a tensor that is small, else of its type alone."""
    if tensor.numel() <= _LARGEST:
        return torch.empty_like(tensor, device="cpu")
    return tensor.new_empty(0, device="cpu")


def _place(numbers: Tensor) -> int:
    return numbers.untyped_storage().data_ptr()
