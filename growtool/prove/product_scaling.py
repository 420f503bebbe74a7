"""Products of two activations, followed back to the layers that write their operands.

Channel numbers are followed from a layer to the product, so that it is known which of its rows the product reads, and
whether anything else reads them. What else may read them are products with a parameter, a table of relative positions
say, which can be made up for there.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from growtool.prove.index_replay import factor_of, is_scalar, is_view, numbers_in, replayed
from growtool.trace import Axis, ChannelGroup, Trace, groups_on
from growtool.trace.axes import axis_size
from growtool.trace.factors import bias_of, is_convolution, operands_of, summed_dims
from growtool.trace.kinds import Kind, is_linear_per_channel
from growtool.trace.norms import norm_call
from growtool.trace.steps import Ref, Step

Entry = tuple[object, ...]


class UnknownError(Exception):
    """A product is reached in a way that is not known."""


class Table(NamedTuple):
    """A parameter that meets an operand of a product in a product of its own, over the same channels.

    Attributes:
        name: the parameter.
        scale: what the operand was multiplied by on its way there.
        rows: length of its first dimension.
    """

    name: str
    scale: float
    rows: int


@dataclass
class Product:
    """A product of two activations.

    Attributes:
        scale: what the sum over channels is multiplied by, before and after.
        scalars: the numbers on the way, as entries of the module's signature.
        rows: parameter -> bool [rows], those that write its operands.
        tables: what else these rows meet.
    """

    scale: float = 1.0
    scalars: list[tuple[str, Entry]] = field(default_factory=list)
    rows: dict[str, Tensor] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


def products(trace: Trace) -> list[int]:
    """Places of the products of two activations."""
    forward = trace.forward
    found = []
    for place, step in enumerate(forward.steps):
        operands = operands_of(step)
        if operands is not None and not any(number in forward.made_of for number in operands):
            found.append(place)
    return found


def sums_over(trace: Trace, place: int, group: ChannelGroup) -> bool:
    """Whether a product of two activations sums over the channels; they have to be all it sums over."""
    step = trace.forward.steps[place]
    operands = operands_of(step)
    assert operands is not None
    summed = _summed(trace, step, operands)
    if not any(group in groups_on(axis) for axis in summed):
        return False
    if summed != [((group,),)] * 2:
        raise UnknownError
    return True


def _summed(trace: Trace, step: Step, operands: tuple[int, int]) -> list[Axis]:
    """The axis of each operand that a product sums over."""
    axes = [trace.forward.axes(number) for number in operands]
    dims = summed_dims(step, (len(axes[0]), len(axes[1])))
    return [own[dim] for own, dim in zip(axes, dims, strict=True)]


class Pass:
    """The recorded pass of one model, followed against and along the flow."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self._forward, self._tensors = trace, trace.forward, trace.tensors
        self._uses = self._forward.use_counts
        self._made_by: dict[int, int] = {}
        self._read_by = defaultdict[int, list[int]](list)
        for place, step in enumerate(self._forward.steps):
            for number in (*step.outs, *step.overwritten):
                self._made_by[number] = -1 if number in self._made_by else place  # written twice: not followed
            for number in dict.fromkeys(step.ins):
                self._read_by[number].append(place)

    def product(self, place: int) -> Product:
        """What is known of the product at a place.

        Raises:
            UnknownError: its operands are no rows of a layer or norm, or these rows go elsewhere, too.
        """
        step = self._forward.steps[place]
        operands = operands_of(step)
        assert operands is not None
        found = Product()
        for number in operands:
            origin = self._back(number, found)
            for name, mask in self._writers(origin, number, place, found).items():
                found.rows[name] = found.rows.get(name, torch.zeros_like(mask)) | mask
        self._on(step.outs[0], found)
        return found

    def _back(self, number: int, found: Product) -> int:
        """The tensor that views and scalars lead back to."""
        while True:
            place = self._made_by.get(number, -1)
            if place < 0:
                raise UnknownError
            step = self._forward.steps[place]
            if not self._scaled(step, found) and not is_view(step):
                return number
            number = step.ins[0]

    def _on(self, number: int, found: Product) -> None:
        """Take in the scalars that follow."""
        while len(self._read_by[number]) == 1:
            step = self._forward.steps[self._read_by[number][0]]
            if (not self._scaled(step, found) and not is_view(step)) or len(step.outs) != 1:
                return
            number = step.outs[0]

    def _scaled(self, step: Step, found: Product) -> bool:
        if not is_scalar(step):
            return False
        found.scale *= factor_of(step)
        found.scalars.append((step.name, (step.name, float(f"{float(step.args[1]):.9g}"))))
        return True

    def _writers(self, origin: int, operand: int, product: int, found: Product) -> dict[str, Tensor]:
        """The parameters behind a tensor, and which of their rows reach the operand and nothing but the product."""
        names, channels = self._written_by(origin)
        written = self._forward.axes(origin)[channels]
        if any(self._uses[name] != 1 or self._tensors[name][0] != written for name in names):
            raise UnknownError
        reached, elsewhere, tables = self._reached(origin, channels, operand, product)
        if bool((reached & elsewhere).any()):
            raise UnknownError
        for table, met in tables:
            if bool(reached[met].all()):
                found.tables.append(table)
            elif bool(reached[met].any()):
                raise UnknownError
        return dict.fromkeys(names, reached)

    def _written_by(self, origin: int) -> tuple[list[str], int]:
        """The parameters that a tensor is proportional to, all rows first, and the dimension that holds these rows."""
        step = self._forward.steps[self._made_by[origin]]
        norm = norm_call(step, self._forward)
        if norm is not None:
            if norm.gain is None or len(norm.dims) != 1:
                raise UnknownError
            return [self._one(number) for number in (norm.gain, norm.shift) if number is not None], norm.dims[0]
        if step.op.kind is Kind.BATCH_NORM:
            if "no_training" not in step.name and step.args[5] is not False:
                raise UnknownError
            affine = [leaf.number for leaf in step.args[1:3] if isinstance(leaf, Ref)]
            if len(affine) != 2 or origin != step.outs[0]:
                raise UnknownError
            return list(map(self._one, affine)), 1
        return self._affine(step)

    def _affine(self, step: Step) -> tuple[list[str], int]:
        """Weight and bias of a layer, and the dimension of what it writes that holds its rows."""
        operands, bias = operands_of(step), None
        if step.name == "add" and len(step.ins) == 2:
            bias = next((number for number in step.ins if number in self._forward.made_of), None)
            x = next((number for number in step.ins if number not in self._forward.made_of), -1)
            product = self._made_by.get(x, -1)
            while product >= 0 and self._forward.steps[product].op.kind is Kind.RESHAPE:
                product = self._made_by.get(self._forward.steps[product].ins[0], -1)
            if bias is None or product < 0 or self._forward.steps[product].name != "mm":
                raise UnknownError
            step, operands = self._forward.steps[product], operands_of(self._forward.steps[product])
        if operands is None:
            raise UnknownError
        weights = [number for number in operands if number in self._forward.made_of]
        if len(weights) != 1:
            raise UnknownError
        bias = bias_of(step) if bias is None else bias
        names = [self._one(weights[0]), *([] if bias is None else [self._one(bias)])]
        return names, 1 if is_convolution(step) else -1

    def _one(self, number: int) -> str:
        """The one parameter a tensor is."""
        names = self._forward.made_of.get(number, frozenset())
        if len(names) != 1:
            raise UnknownError
        return next(iter(names))

    def _reached(
        self, origin: int, channels: int, operand: int, product: int
    ) -> tuple[Tensor, Tensor, list[tuple[Table, Tensor]]]:
        """Of a tensor's channels: which reach the operand, which anything but the product, and which meet tables.

        Returns:
            bool [channels] twice, and each table with int64, the channels that meet it.
        """
        sizes = [axis_size(axis) for axis in self._forward.axes(origin)]
        count = sizes[channels]
        order = torch.arange(count).reshape(-1, *[1] * (len(sizes) - channels % len(sizes) - 1))
        known: dict[int, Tensor] = {origin: order.expand(sizes)}
        scales = {origin: 1.0}
        elsewhere = torch.zeros(count, dtype=torch.bool)
        tables: list[tuple[Table, Tensor]] = []
        for place in range(self._made_by[origin] + 1, len(self._forward.steps)):
            step = self._forward.steps[place]
            inside = [number for number in step.ins if number in known]
            if known.keys() & set(step.overwritten):
                raise UnknownError
            if not inside or place == product:
                continue
            if is_scalar(step):
                known[step.outs[0]] = known[inside[0]]
                scales[step.outs[0]] = scales[inside[0]] * factor_of(step)
            elif is_view(step):
                known |= zip(step.outs, replayed(step, known), strict=True)
                scales |= dict.fromkeys(step.outs, scales[inside[0]])
            elif table := self._table(step, inside, product, scales[inside[0]]):
                tables.append((table, numbers_in(known[inside[0]])))
            else:
                for number in inside:
                    elsewhere[numbers_in(known[number])] = True
        reached = torch.zeros(count, dtype=torch.bool)
        reached[numbers_in(known[operand])] = True
        return reached, elsewhere, tables

    def _table(self, step: Step, inside: list[int], product: int, scale: float) -> Table | None:
        """The parameter that a tensor meets in a product over the channels that the main one sums over; None elsewhere.

        It has to be proportional to that parameter, and all that the parameter is used for.
        """
        operands = operands_of(step)
        if operands is None or len(inside) != 1 or inside[0] not in operands:
            return None
        other = operands[1 - operands.index(inside[0])]
        main = self._forward.steps[product]
        over = _summed(self._trace, step, operands)
        if other not in self._forward.made_of or over != _summed(self._trace, main, operands_of(main) or (0, 0)):
            return None
        while other not in self._forward.stored:
            place = self._made_by.get(other, -1)
            maker = self._forward.steps[place]
            behind = [number for number in maker.ins if self._forward.made_of.get(number)]
            proportional = (is_linear_per_channel(maker) and maker.op.kind is not Kind.JOIN) or is_scalar(maker)
            if place < 0 or len(behind) != 1 or not proportional:
                return None
            other = behind[0]
        names, channels = self._forward.stored[other], list(groups_on(over[0]))
        if len(names) != 1 or self._uses[names[0]] != 1 or len(channels) != 1:
            return None
        axes = self._tensors[names[0]]
        held = [dim for dim, axis in enumerate(axes) for group in groups_on(axis) if group is channels[0]]
        if len(held) != 1 or (channels[0], names[0], held[0]) not in self._trace.consumers:
            return None
        return Table(names[0], scale, axis_size(axes[0]))
