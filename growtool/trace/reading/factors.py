"""Sums of products: matrix products, convolutions and attention, by what they sum over and what they add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from growtool.trace.axes import Axis, ChannelGroup, axis_size, groups_on
from growtool.trace.steps import ForwardPass, Ref, Step
from growtool.trace.table.kinds import Kind
from growtool.trace.unify import factor_out


@dataclass(frozen=True, slots=True)
class Product:
    """A sum of products of two tensors.

    Attributes:
        operands: their numbers.
        summed: of each, the axis that the sum runs over.
        kept: of each, the others; a grouped convolution keeps which group a channel is in.
        bias: the number of what is added, None without.
    """

    operands: tuple[int, int]
    summed: tuple[Axis, Axis]
    kept: tuple[tuple[Axis, ...], tuple[Axis, ...]]
    bias: int | None

    def sums(self, group: ChannelGroup) -> bool:
        """Whether the sum runs over a set of channels."""
        return any(group in groups_on(axis) for axis in self.summed)

    def keeps(self, group: ChannelGroup) -> tuple[bool, bool]:
        """Whether each operand brings a set of channels into the result."""
        left, right = (any(group in groups_on(axis) for axis in axes) for axes in self.kept)
        return left, right


def product_of(step: Step, forward: ForwardPass) -> Product | None:
    """A matrix product or a convolution; None for anything else."""
    if step.op.kind is Kind.CONVOLUTION:
        return _convolution(step, forward)
    first = step.op.factors
    if first is None:
        return None
    operands = step.args[first].number, step.args[first + 1].number
    left, right = map(forward.axes, operands)
    rows = max(len(right) - 2, 0)
    kept = left[:-1], right[:rows] + right[rows + 1 :]
    bias = step.args[0].number if first == 1 else None
    return Product(operands, (left[-1], right[rows]), kept, bias)


def _convolution(step: Step, forward: ForwardPass) -> Product:
    x, weight, bias, transposed, groups = (step.args[at] for at in (0, 1, 2, 6, 8))
    images, channels, *places = forward.axes(x.number)
    rows, columns, *kernel = forward.axes(weight.number)
    if transposed:
        rows, columns = columns, rows
    inner = axis_size(channels) // groups
    of_x, inside = factor_out(channels, inner)
    of_weight, inside_weight = factor_out(columns, inner)
    return Product(
        (x.number, weight.number),
        (inside, inside_weight),
        ((images, of_x, *places), (of_weight, rows, *kernel)),
        bias.number if isinstance(bias, Ref) else None,
    )


def is_grouped(step: Step) -> bool:
    """Whether it is a convolution in several groups."""
    return step.op.kind is Kind.CONVOLUTION and step.args[8] > 1


def sums_of_activations(forward: ForwardPass) -> Iterator[tuple[Step, Axis]]:
    """Every sum of products of two activations and every softmax, as attention has them, with what it runs over."""
    for step in forward.steps:
        product = product_of(step, forward)
        if step.op.kind in (Kind.SOFTMAX, Kind.LOG_SOFTMAX):
            yield step, forward.axes(step.args[0].number)[step.arg(1, "dim")]
        elif step.op.kind is Kind.ATTENTION:
            yield step, forward.axes(step.args[0].number)[-1]
            yield step, forward.axes(step.args[1].number)[-2]
        elif product is not None and not any(forward.made_of.get(number) for number in product.operands):
            yield step, product.summed[0]
