"""Multiply-accumulates of a model, operation by operation: from a trace, or from a pass that is run to count them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from growtool.library import Inputs, leaves_of
from growtool.trace.axes import axis_size
from growtool.trace.known import on_meta
from growtool.trace.recurrence import FirstPositions
from growtool.trace.steps import ForwardPass, Ref
from growtool.trace.table.kinds import Operation
from growtool.trace.table.ops import OPS, name_of

if TYPE_CHECKING:
    from torch import nn

Counted = tuple[str, str, Fraction]  # path of the module, name of the operation, MACs of one input


def of_pass(forward: ForwardPass) -> Iterator[Counted]:
    """Yield the counted operations of a trace.

    The traced batch is divided by its size. Operations on parameters alone are not, as one input takes all of them.
    """

    def sizes(leaf: Ref | int) -> list[int]:
        return list(map(axis_size, forward.layouts[leaf.number if isinstance(leaf, Ref) else leaf]))

    batch = sizes(forward.inputs[0])[0]
    dependent = set(forward.inputs)
    for step in forward.raw:
        depends = not dependent.isdisjoint(step.ins)
        if depends:
            dependent.update(step.outs, step.overwritten)
        if step.op.macs is not None:
            per_input = depends or step.repeats is not None  # a recurrent layer has a first state for each of them
            macs = step.op.macs(step, sizes) * (step.repeats or 1)
            yield step.module, step.name, Fraction(macs, batch if per_input else 1)


def counted(model: nn.Module, inputs: Inputs, run: Callable[[nn.Module, Inputs], tuple[Tensor, ...]]) -> list[Counted]:
    """Return the counted operations of a pass that is run on the meta device.

    Args:
        model: in eval mode; it is moved to the meta device and keeps hooks, and is of no use afterwards.
        inputs: a batch of one input, on meta.
        run: calls the model.
    """
    skeleton = model.to("meta").requires_grad_(False)
    counter = _Counter()
    for path, module in skeleton.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: counter.modules.append(path))
        module.register_forward_hook(lambda *_: _leave(counter.modules))
    with warnings.catch_warnings(), torch.no_grad(), counter.recurrent, on_meta(), counter:
        warnings.simplefilter("ignore")
        run(skeleton, inputs)
    return counter.operations


def _leave(modules: list[str]) -> None:
    # a hook that returned the path would replace the output of the module
    modules.pop()


class _Counter(TorchDispatchMode):
    """While active, notes every operation whose row counts its MACs.

    Attributes:
        modules: paths of the modules that are running, the innermost last.
        operations: the operations so far.
        recurrent: runs recurrent layers on their first positions.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules: list[str] = []
        self.operations: list[Counted] = []
        self.recurrent = FirstPositions()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = name_of(func)
        row = OPS.get(name.removesuffix("_"))
        if row is not None and row.macs is not None:
            operation = Operation(name, row, func, args, kwargs, leaves_of(result))
            macs = row.macs(operation, lambda tensor: tensor.shape) * (self.recurrent.repeats or 1)
            self.operations.append((self.modules[-1], name, Fraction(macs)))
        return result
