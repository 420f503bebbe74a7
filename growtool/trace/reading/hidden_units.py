"""Hidden units: channels that one layer writes and one layer reads, with a function of each unit between the two.

They are the values phi(W1 x + b) in `y = W2 phi(W1 x + b)`. The gradient of the loss on new units there has a closed
form in x and the gradient on y, whatever the rest of the model is (GradMax, arXiv 2201.05125, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

from growtool.trace import ChannelGroup, Trace
from growtool.trace.reading.factors import is_grouped, product_of
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, keeps_zero


@dataclass(frozen=True, slots=True)
class HiddenUnits:
    """The two layers around hidden units.

    Attributes:
        writer: name of the weight whose rows are the units.
        reader: name of the weight whose columns are the units.
        live_at_zero: whether a unit that is zero on all inputs has a gradient.
        statistics: names of running mean and variance of the BatchNorm between the two, None without one.
    """

    writer: str
    reader: str
    live_at_zero: bool
    statistics: tuple[str, str] | None = None


class NoHiddenUnitsError(Exception):
    """Channels are no hidden units, for the reason that is said."""


def hidden_units(trace: Trace, group: ChannelGroup) -> HiddenUnits:
    """Return the two layers around a channel group.

    Raises:
        NoHiddenUnitsError: other layers take part, or an operation that is not a function of each unit alone.
    """
    forward = trace.forward
    writers, readers, live = set[str](), set[str](), True
    statistics = set[tuple[str, str]]()
    with_units = forward.carrying(group)
    for step in forward.steps:
        has_units = not with_units.isdisjoint((*step.ins, *step.outs))
        if not has_units or all(number in forward.made_of for number in step.ins):
            continue
        product = product_of(step, forward)
        if is_grouped(step):
            raise NoHiddenUnitsError(f"{step.module} reads each of them in a group of its own")
        if product is not None:
            reads = product.sums(group)
            if reads and not with_units.isdisjoint(step.outs):
                raise NoHiddenUnitsError(f"{step.module} reads and writes them")
            (readers if reads else writers).add(_weight(trace, product.operands))
        elif step.name == "add" and sum(number not in forward.made_of for number in step.ins) == 1:
            continue  # a bias
        elif step.op.kind is Kind.BATCH_NORM:
            statistics.add((_stored(trace, step, 3), _stored(trace, step, 4)))
        else:
            live = _passes_gradient(step) and live
    if len(statistics) > 1:
        raise NoHiddenUnitsError(f"{len(statistics)} norms stand between them")
    if len(writers) != 1 or len(readers) != 1:
        raise NoHiddenUnitsError(f"{len(writers)} layers write them and {len(readers)} read them")
    (writer,), (reader,) = writers, readers
    if trace.tensors[writer][0] != ((group,),) or trace.tensors[reader][1] != ((group,),):
        raise NoHiddenUnitsError("they are a part of what a layer writes or reads (heads, gates)")
    # a BatchNorm in training divides by the deviation of a batch, which is zero for zeros
    return HiddenUnits(writer, reader, live and not statistics, next(iter(statistics), None))


def _stored(trace: Trace, step: Step, place: int) -> str:
    """Return the name of a buffer among the arguments of a step."""
    leaf = step.args[place]
    names = trace.forward.stored.get(leaf.number, ()) if isinstance(leaf, Ref) else ()
    if not names:
        raise NoHiddenUnitsError(f"{step.module} keeps no running statistics")
    return names[0]


def _weight(trace: Trace, operands: tuple[int, int]) -> str:
    """Return the name of the one parameter among two operands."""
    forward = trace.forward
    names = [forward.made_of[number] for number in operands if number in forward.made_of]
    if len(names) != 1 or len(names[0]) != 1:
        raise NoHiddenUnitsError("two activations are multiplied")
    (name,) = names[0]
    return name


def _passes_gradient(step: Step) -> bool:
    """Return whether a gradient passes a step at a unit that is zero; raise if it is no function of each unit alone."""
    if step.op.kind in (Kind.RESHAPE, Kind.SAME):
        return True
    if step.op.pointwise and keeps_zero(step):
        return step.op.sloped
    raise NoHiddenUnitsError(f"between them {step.name} is computed")
