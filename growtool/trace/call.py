"""What the tape knows of tensors and operations: the words in which the rules speak."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from growtool.trace.axes import Axis
from growtool.trace.flow import Flow, Params
from growtool.trace.kinds import Op

Axes: TypeAlias = "tuple[Axis, ...]"


@dataclass(slots=True)
class Value:
    """What the tape knows of one tensor.

    Attributes:
        axes: its symbolic axes.
        params: what it is made of; None for anything that depends on the input.
        flow: what would remain of it if parameters were zero.
        stored: the name of the parameter or buffer that it is, transposed or not, a vector in any shape; None: it is
            none, or has several.
    """

    axes: Axes
    params: Params | None = None
    flow: Flow = field(default_factory=Flow)
    stored: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One operation: `name` is aten's without namespace, overload and trailing underscore, `op` what is known of it."""

    name: str
    op: Op
    func: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ins: tuple[Tensor, ...]
    outs: tuple[Tensor, ...]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)
