"""Which parameters have to be centred so that the channels a LayerNorm reads have mean zero.

A LayerNorm is blind to a constant that is added to all of its D channels. So every tensor that writes those channels
may be multiplied by `C = I - 11^T / D` from the left: the function stays, the mean over channels becomes zero, and
zeros may stand beside the old channels. C passes through sums of streams and through all that treats channels alike. It
does not pass through a scale per channel (a LayerScale), which is therefore folded into the weight before it:
`gamma * (W x + b) = (diag(gamma) W) x + gamma * b`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

from growtool.trace import ChannelGroup, Trace
from growtool.trace.reading.factors import product_of
from growtool.trace.reading.norms import is_closed, norm_call
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, is_linear_per_channel

# The parameters that write a tensor's channels, each with the scale per channel to fold into it, if any.
_Writers: TypeAlias = "frozenset[tuple[str, str | None]]"
_NOTHING: _Writers = frozenset()


def writes_alone(trace: Trace, group: ChannelGroup, number: int) -> bool:
    """Return whether a parameter or buffer has a dimension of these channels alone that no sum runs over."""
    return any(
        axis == ((group,),) and all((group, name, dim) not in trace.consumers for name in trace.forward.stored[number])
        for dim, axis in enumerate(trace.forward.axes(number))
    )


def writers_of_norms(trace: Trace, group: ChannelGroup, zeroed: frozenset[str]) -> dict[str, str | None]:
    """Return the parameters to centre for every LayerNorm over the channels; those that cannot be centred are left out.

    Args:
        trace, group, zeroed: as in `BlankPass`.

    Returns:
        Parameter -> the scale per channel to fold into it, or None.
    """
    search = _Search(trace, group, zeroed)
    found = _NOTHING
    for step in trace.forward.steps:
        search.follow(step)
        if step.op.kind is Kind.LAYER_NORM and isinstance(step.args[0], Ref):
            found |= search.writers.get(step.args[0].number) or _NOTHING
    # a parameter that two scales follow, or a scale in one place and none in another, cannot serve both
    scales = defaultdict[str, set[str | None]](set)
    for name, scale in found:
        scales[name].add(scale)
    return {name: scales[name].pop() for name in sorted(scales) if len(scales[name]) == 1}


class _Search:
    """A search for the writers of each tensor, forward through the operations.

    Attributes:
        writers: number of a tensor -> its writers; None or absent if no centring of parameters centres the tensor.
    """

    def __init__(self, trace: Trace, group: ChannelGroup, zeroed: frozenset[str]) -> None:
        self._forward, self._group, self._zeroed = trace.forward, group, zeroed
        self._carrying = trace.forward.carrying(group)
        self.writers: dict[int, _Writers | None] = {}
        for number, names in self._forward.stored.items():
            if writes_alone(trace, group, number):
                self.writers[number] = _NOTHING if zeroed.issuperset(names) else frozenset([(names[0], None)])

    def follow(self, step: Step) -> None:
        """Take in one operation."""
        writers = self._after(step)
        for number in step.outs:
            if number in self._carrying:
                self.writers[number] = writers

    def _after(self, step: Step) -> _Writers | None:
        """Return the writers of an operation's results, or None if they cannot be centred."""
        carrying = [number for number in step.ins if number in self._carrying]
        if step.op.kind is Kind.ADD and len(step.ins) == len(carrying) == 2:
            return self._joined(carrying)
        if step.op.kind is Kind.MULTIPLY and carrying:
            return self._scaled(step, carrying)
        values = step.ins[:1] if step.op.kind is Kind.LOOKUP else step.ins  # the others are indices
        if is_linear_per_channel(step) and len(carrying) == len(values):
            return self._joined(carrying)
        product = product_of(step, self._forward)
        if product is not None:
            kept = [n for n, keeps in zip(product.operands, product.keeps(self._group), strict=True) if keeps]
            return self._joined(kept if product.bias is None else [*kept, product.bias]) if len(kept) == 1 else None
        if step.op.affine:
            return self._normed(step)
        return None

    def _normed(self, step: Step) -> _Writers | None:
        """Return the shift of a norm that writes the channels: all of its result that can be centred.

        A mean remains that its gains make, see `BlankPropagation.means_left`.
        """
        if is_closed(step, self._is_zeroed):
            return _NOTHING
        norm = norm_call(step, self._forward)
        return None if norm is None or norm.shift is None else self.writers.get(norm.shift)

    def _joined(self, numbers: list[int]) -> _Writers | None:
        """Return the writers of a sum of tensors, all of which have to be centred."""
        found = [self.writers.get(number) for number in numbers]
        known = [writers for writers in found if writers is not None]
        return _NOTHING.union(*known) if len(known) == len(found) else None

    def _scaled(self, step: Step, carrying: list[int]) -> _Writers | None:
        """Return the writers of a product or quotient: with a scale to fold where both factors have the channels."""
        if any(self._is_zeroed(number) for number in step.ins) and step.name == "mul":
            return _NOTHING
        if len(carrying) == 1:
            return self.writers.get(carrying[0])
        for number, other in (carrying, carrying[::-1]):
            names = self._forward.stored.get(number, ())
            written = self.writers.get(other)
            if step.name == "mul" and len(names) == 1 and other not in self._forward.made_of and written is not None:
                unscaled = all(scale is None for _, scale in written)
                return frozenset((name, names[0]) for name, _ in written) if unscaled else None
        return None

    def _is_zeroed(self, number: int) -> bool:
        """Return whether growth sets all parameters that a tensor is made of to zero."""
        made_of = self._forward.made_of.get(number)
        return bool(made_of) and self._zeroed.issuperset(made_of or ())
