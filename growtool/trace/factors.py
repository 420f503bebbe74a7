"""Matrix products and convolutions: their two factors, what they sum over, and what they add."""

from __future__ import annotations

from growtool.trace.kinds import Kind
from growtool.trace.steps import Ref, Step


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


def bias_of(step: Step) -> int | None:
    """The tensor added to a product's result."""
    if step.op.factors == 1:
        return int(step.args[0].number)
    bias = step.arg(2, "bias") if is_convolution(step) else None
    return bias.number if isinstance(bias, Ref) else None
