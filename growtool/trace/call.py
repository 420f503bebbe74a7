"""The data that the rules of the trace work on: values of tensors, calls of operations, and the pass under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from torch import Tensor

from growtool.trace.axes import VARYING, Axis, new_axis
from growtool.trace.flow.flow import Flow, Params
from growtool.trace.table.kinds import Operation

Axes: TypeAlias = "tuple[Axis, ...]"


@dataclass(slots=True)
class Value:
    """What the tape knows of one tensor.

    Attributes:
        axes: its symbolic axes, one for each dimension.
        params: names of the parameters and buffers that it is computed from, empty for a constant; None if it depends
            on the input.
        flow: what would remain of it if parameters were zero.
        stored: name of the parameter or buffer that it is, perhaps transposed, or reshaped if it is a vector; None if
            it is another tensor, or one that is registered under several names.
    """

    axes: Axes
    params: Params | None = None
    flow: Flow = field(default_factory=Flow)
    stored: str | None = None


def constant_axes(tensor: Tensor) -> Axes:
    """Return axes that are fixed where the values of a constant vary along them, and free to grow elsewhere."""
    return tuple(
        new_axis(n, None if uniform else VARYING)
        for n, uniform in zip(tensor.shape, _is_uniform_along(tensor), strict=True)
    )


def _is_uniform_along(tensor: Tensor) -> list[bool]:
    """Return for each dimension whether the values are the same at all of its positions."""
    if tensor.is_meta or tensor.numel() == 0:  # no values to compare
        return [n == 1 for n in tensor.shape]
    return [n == 1 or bool((tensor == tensor.narrow(i, 0, 1)).all()) for i, n in enumerate(tensor.shape)]


@dataclass(frozen=True)
class Call(Operation):
    """One operation while it is traced.

    Attributes:
        ins: every tensor among the arguments, in order.
    """

    outs: tuple[Tensor, ...]
    ins: tuple[Tensor, ...]

    def written(self) -> list[Tensor]:
        """Return the tensors that it writes to, according to its schema."""
        arguments = self.func._schema.arguments
        writes = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
        values = (self.arg(index, a.name) for index, a in enumerate(arguments) if a.name in writes)
        return [value for value in values if isinstance(value, Tensor)]


class Observer(Protocol):
    """The part of the `Tape` that rules use.

    Attributes:
        module: path of the innermost module that is running.
        norm_eps: as in `Trace`; rules add to it.
        vectors: names of the parameters and buffers of one dimension.
    """

    norm_eps: dict[str, float]
    vectors: set[str]

    @property
    def module(self) -> str: ...

    def value(self, tensor: Tensor) -> Value: ...

    def axes(self, tensor: Tensor) -> Axes: ...

    def when_read(self, tensor: Tensor, then: Callable[[], None]) -> None: ...

    def contract(self, left: Tensor, left_axis: Axis, right: Tensor, right_axis: Axis) -> None: ...
