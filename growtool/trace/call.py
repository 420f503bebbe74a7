"""What the tape knows of tensors and operations: the words in which the rules speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from growtool.trace.axes import Axis
from growtool.trace.flow.flow import Flow, Normed, Params
from growtool.trace.table.kinds import Op

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


class Observer(Protocol):
    """What a pass under way tells the rules.

    Attributes:
        module: path of the innermost module that is running.
        norm_eps: as in `Trace`; rules add to it.
        vectors: parameters and buffers of one dimension.
        activations: token of a flow -> the idempotent activation that it comes out of.
        norms: token of a flow -> the norm that its tensor comes out of.
    """

    norm_eps: dict[str, float]
    vectors: set[str]
    activations: dict[int, str]
    norms: dict[int, Normed]

    @property
    def module(self) -> str: ...

    def value(self, tensor: Tensor) -> Value: ...

    def axes(self, tensor: Tensor) -> Axes: ...

    def stored_name(self, tensor: Tensor) -> str | None: ...

    def when_read(self, tensor: Tensor, then: Callable[[], None]) -> None: ...

    def contract(self, left: Tensor, left_axis: Axis, right: Tensor, right_axis: Axis) -> None: ...
