"""Matrix products and convolutions: their two factors, what they sum over, and what they add."""

from __future__ import annotations

from collections.abc import Iterator

from growtool.trace.axes import Axis
from growtool.trace.kinds import Kind
from growtool.trace.steps import ForwardPass, Ref, Step


def is_convolution(step: Step) -> bool:
    """Whether the operation is a convolution."""
    return step.op.kind is Kind.CONVOLUTION


def operands_of(step: Step) -> tuple[int, int] | None:
    """The two tensors of a matrix product or an ungrouped convolution, None for anything else."""
    if is_convolution(step):
        return (step.args[0].number, step.args[1].number) if step.args[8] == 1 else None
    first = step.op.factors
    if first is None:
        return None
    return step.args[first].number, step.args[first + 1].number


def summed_dims(step: Step, dims: tuple[int, int]) -> tuple[int, int]:
    """The dimension of each operand that the product sums over.

    Args:
        step: a matrix product or an ungrouped convolution.
        dims: number of dimensions of its operands.
    """
    if is_convolution(step):
        return 1, 0 if step.args[6] else 1
    return dims[0] - 1, max(dims[1] - 2, 0)


def sums_of_activations(forward: ForwardPass) -> Iterator[tuple[Step, Axis]]:
    """Every sum of products of two activations and every softmax, as attention has them, with what it runs over."""
    for step in forward.steps:
        pair = operands_of(step)
        if step.op.kind in (Kind.SOFTMAX, Kind.LOG_SOFTMAX):
            yield step, forward.axes(step.args[0].number)[step.arg(1, "dim")]
        elif step.op.kind is Kind.ATTENTION:
            yield step, forward.axes(step.args[0].number)[-1]
            yield step, forward.axes(step.args[1].number)[-2]
        elif pair is not None and not any(forward.made_of.get(number) for number in pair):
            axes = [forward.axes(number) for number in pair]
            yield step, axes[0][summed_dims(step, (len(axes[0]), len(axes[1])))[0]]


def bias_of(step: Step) -> int | None:
    """The tensor added to a product's result."""
    if step.op.factors == 1:
        return int(step.args[0].number)
    bias = step.arg(2, "bias") if is_convolution(step) else None
    return bias.number if isinstance(bias, Ref) else None
