"""Passes on the meta device without torch's slow references, for operations whose row says what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from growtool.trace.table.kinds import Kind
from growtool.trace.table.ops import OPS


class ByShape(TorchDispatchMode):
    """While active, operations whose row has a `meta_result` return empty meta tensors as torch would, and at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
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
