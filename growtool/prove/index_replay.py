"""Channel numbers in place of values: where the channels of one tensor lie in others, views and paddings on the way."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from growtool.trace.kinds import Kind, keeps_zero
from growtool.trace.steps import Ref, Step

_NOWHERE = -1  # in place of a channel's number: a zero that padding put there


def is_view(step: Step) -> bool:
    """Whether every value of the results is one of the operand's, or a zero."""
    views = step.op.replays or (step.op.kind is Kind.PAD and keeps_zero(step))
    return views and len(step.ins) == 1 and step.outs != step.ins


def is_scalar(step: Step) -> bool:
    """Whether it multiplies or divides a tensor by a number."""
    return (
        step.op.kind is Kind.MULTIPLY and len(step.ins) == 1 and isinstance(step.args[0], Ref)
        and isinstance(step.args[1], int | float) and step.outs != step.ins
    )  # fmt: skip


def factor_of(step: Step) -> float:
    """What such an operation multiplies by."""
    return float(step.args[1]) if step.name == "mul" else 1 / float(step.args[1])


def numbers_in(known: Tensor) -> Tensor:
    """The channels that a tensor of channel numbers holds."""
    found: Tensor = known[known != _NOWHERE].unique()
    return found


def replayed(step: Step, known: Mapping[int, Tensor]) -> list[Tensor]:
    """The same view of channel numbers."""
    args = tree_map(lambda leaf: known[leaf.number] if isinstance(leaf, Ref) else leaf, step.args)
    kwargs = {name: value for name, value in step.kwargs.items() if name != "memory_format"}
    if step.op.kind is Kind.PAD:
        args, kwargs = (*args[:2], _NOWHERE), {}
    name = "reshape" if step.op.kind is Kind.RESHAPE else step.name  # strides may be others here
    result = getattr(torch.ops.aten, name)(*args, **kwargs)
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
