"""Sums of products: the axes that matrix products, convolutions and attention sum over, and the axes that they keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from growtool.trace.axes import Axis, ChannelGroup, axis_size, groups_on
from growtool.trace.steps import ForwardPass, Ref, Step
from growtool.trace.table.kinds import Kind
from growtool.trace.unify import factor_out


@dataclass(frozen=True, slots=True)
class Product:
    """A sum of products of two tensors: a matrix product or a convolution.

    Attributes:
        operands: numbers of the two tensors.
        summed: for each operand, the axis that the sum runs over.
        kept: for each operand, its other axes; a grouped convolution keeps the axis of groups.
        bias: number of the tensor that is added, None without one.
    """

    operands: tuple[int, int]
    summed: tuple[Axis, Axis]
    kept: tuple[tuple[Axis, ...], tuple[Axis, ...]]
    bias: int | None

    def sums(self, group: ChannelGroup) -> bool:
        """Return whether the sum runs over the channels of a group."""
        return any(group in groups_on(axis) for axis in self.summed)

    def keeps(self, group: ChannelGroup) -> tuple[bool, bool]:
        """Return for each operand whether it brings the channels of a group into the result."""
        left, right = (any(group in groups_on(axis) for axis in axes) for axes in self.kept)
        return left, right


def product_of(step: Step, forward: ForwardPass) -> Product | None:
    """Return the product that a step computes, or None if it is neither a matrix product nor a convolution."""
    if step.op.kind is Kind.CONVOLUTION:
        return _convolution(step, forward)
    first = step.op.factors
    if first is None:
        return None
    operands = step.args[first].number, step.args[first + 1].number
    left, right = map(forward.axes, operands)
    summed_dim = max(len(right) - 2, 0)  # the last but one of a matrix, the only one of a vector
    kept = left[:-1], right[:summed_dim] + right[summed_dim + 1 :]
    bias = step.args[0].number if first == 1 else None
    return Product(operands, (left[-1], right[summed_dim]), kept, bias)


def _convolution(step: Step, forward: ForwardPass) -> Product:
    x, weight, bias, transposed, groups = (step.args[at] for at in (0, 1, 2, 6, 8))
    images, channels, *places = forward.axes(x.number)
    rows, columns, *kernel = forward.axes(weight.number)
    if transposed:
        rows, columns = columns, rows
    # the columns of a transposed weight are the channels of all groups, those of any other the channels of one
    size = axis_size(channels) // groups
    groups_of_x, summed_x = factor_out(channels, size)
    groups_of_weight, summed_weight = factor_out(columns, size)
    return Product(
        operands=(x.number, weight.number),
        summed=(summed_x, summed_weight),
        kept=((images, groups_of_x, *places), (groups_of_weight, rows, *kernel)),
        bias=bias.number if isinstance(bias, Ref) else None,
    )


def is_grouped(step: Step) -> bool:
    """Return whether a step is a convolution in several groups."""
    return step.op.kind is Kind.CONVOLUTION and step.args[8] > 1


def sums_of_activations(forward: ForwardPass) -> Iterator[tuple[Step, Axis]]:
    """Yield the steps of attention, each with an axis that it sums over: products of two activations, and softmax.

    A fused attention comes twice: with the axis of channels, and with that of tokens.
    """
    for step in forward.steps:
        product = product_of(step, forward)
        if step.op.kind in (Kind.SOFTMAX, Kind.LOG_SOFTMAX):
            yield step, forward.axes(step.args[0].number)[step.arg(1, "dim")]
        elif step.op.kind is Kind.ATTENTION:
            yield step, forward.axes(step.args[0].number)[-1]
            yield step, forward.axes(step.args[1].number)[-2]
        elif product is not None and not any(forward.made_of.get(number) for number in product.operands):
            yield step, product.summed[0]
