"""The operations of a pass that are counted: from a trace, or from a pass that is run for this alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
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
from growtool.trace.table.ops import OPS

if TYPE_CHECKING:
    from torch import nn

Counted = tuple[str, str, Fraction]  # path of the module, name of the operation, MACs of one input


def of_pass(forward: ForwardPass) -> Iterator[Counted]:
    """The counted operations of a trace; what does not depend on the inputs is done once for all of them."""

    def sizes(leaf: Ref | int) -> list[int]:
        return list(map(axis_size, forward.layouts[leaf.number if isinstance(leaf, Ref) else leaf]))

    count = sizes(forward.inputs[0])[0]
    dependent = set(forward.inputs)
    for step in forward.raw:
        depends = not dependent.isdisjoint(step.ins)
        if depends:
            dependent.update(step.outs, step.overwritten)
        if step.op.macs is not None:
            per_input = depends or step.repeats is not None  # a recurrent layer has a first state for each of them
            macs = step.op.macs(step, sizes) * (step.repeats or 1)
            yield step.module, step.name, Fraction(macs, count if per_input else 1)


def counted(model: nn.Module, inputs: Inputs, run: Callable[[nn.Module, Inputs], tuple[Tensor, ...]]) -> list[Counted]:
    """Run a model on one input on the meta device.

    Args:
        model: in eval mode; of no use afterwards.
        inputs: one, on meta.
        run: calls the model.
    """
    skeleton = model.to("meta").requires_grad_(False)
    counter = _Counter()
    for path, module in skeleton.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: counter.modules.append(path))
        module.register_forward_hook(lambda *_: _leave(counter.modules))
    with warnings.catch_warnings(), torch.no_grad(), FirstPositions(counter.repeat, _keep), on_meta(), counter:
        warnings.simplefilter("ignore")
        run(skeleton, inputs)
    return counter.found


def _leave(modules: list[str]) -> None:
    modules.pop()


def _keep(_: Tensor) -> None:
    """No axis is followed here, so none has to be fixed."""


class _Counter(TorchDispatchMode):
    """While active, takes in every operation whose row tells its MACs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules: list[str] = []
        self.found: list[Counted] = []
        self._repeats: Fraction | None = None

    def repeat(self, times: Fraction | None) -> None:
        """Let each operation that follows stand for so many."""
        self._repeats = times

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        row = OPS.get(name.removesuffix("_"))
        if row is not None and row.macs is not None:
            macs = row.macs(_Run(args, result), _shape) * (self._repeats or 1)
            self.found.append((self.modules[-1], name, Fraction(macs)))
        return result


class _Run:
    """An operation as it runs."""

    def __init__(self, args: tuple[Any, ...], result: Any) -> None:
        self.args = args
        self.outs = leaves_of(result)


def _shape(tensor: Tensor) -> Sequence[int]:
    return tensor.shape
