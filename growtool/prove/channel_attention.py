"""Softmax over copied channels, followed by a sum over them: attention among channels (XCA, arXiv 2106.09681).

With m copies of every channel each weight of the softmax is 1/m of what it was, and a sum of copied activations with
these weights has m times as many terms: it stays. That holds where such sums are all the result is used for.
"""

from __future__ import annotations

from collections import defaultdict

import torch

from growtool.prove.index_replay import is_view, replayed
from growtool.trace import Axis, Trace
from growtool.trace.axes import axis_size
from growtool.trace.factors import is_convolution, operands_of, summed_dims
from growtool.trace.kinds import Kind
from growtool.trace.steps import ForwardPass

Sum = tuple[str, Axis]  # module and channels


def softmax_sums(trace: Trace) -> frozenset[Sum]:
    """Where every softmax over the channels is used in such sums alone, and every sum of products over them is one."""
    forward = trace.forward
    weighted = defaultdict[Sum, set[int]](set)
    failed, unseen = set[Sum](), set[str]()
    for place, step in enumerate(forward.steps):
        if step.op.kind not in (Kind.SOFTMAX, Kind.LOG_SOFTMAX) or step.ins[0] in forward.made_of:
            continue
        axis = forward.axes(step.ins[0])[step.args[1]]
        sums = _sums(place, step.args[1], forward) if step.op.kind is Kind.SOFTMAX else []
        for module in {step.module, *(forward.steps[at].module for at in sums)}:
            if sums and weighted[module, axis].isdisjoint(sums):  # both operands weighted: no more
                weighted[module, axis].update(sums)
            else:
                failed.add((module, axis))
    for place, step in enumerate(forward.steps):
        operands = operands_of(step)
        if operands is None and step.op.kind in (Kind.PRODUCT, Kind.CONVOLUTION, Kind.ATTENTION):
            unseen.add(step.module)  # a sum whose operands are not told apart here
        if operands is None or any(number in forward.made_of for number in operands):
            continue
        layouts = [forward.axes(number) for number in operands]
        for axes, dim in zip(layouts, summed_dims(step, (len(layouts[0]), len(layouts[1]))), strict=True):
            if place not in weighted[step.module, axes[dim]]:
                failed.add((step.module, axes[dim]))
    return frozenset(key for key, places in weighted.items() if places and key not in failed and key[0] not in unseen)


def _sums(softmax: int, dim: int, forward: ForwardPass) -> list[int]:
    """The places of the products that sum over a softmax's own dimension; none if anything else reads its result."""
    step = forward.steps[softmax]
    sizes = [axis_size(axis) for axis in forward.axes(step.outs[0])]
    dim %= len(sizes)
    numbers = torch.arange(sizes[dim]).reshape(-1, *[1] * (len(sizes) - dim - 1))
    known = {step.outs[0]: numbers.expand(sizes)}
    found = []
    for place in range(softmax + 1, len(forward.steps)):
        reader = forward.steps[place]
        if known.keys() & set(reader.overwritten):
            return []
        inside = [number for number in reader.ins if number in known]
        if not inside:
            continue
        operands = operands_of(reader)
        if is_view(reader) and reader.op.kind is not Kind.PAD:
            known |= zip(reader.outs, replayed(reader, known), strict=True)
        elif operands is not None and not is_convolution(reader) and len(inside) == 1 and inside[0] in operands:
            at = operands.index(inside[0])
            own, other = known[inside[0]], operands[1 - at]
            summed = summed_dims(reader, (own.ndim, len(forward.layouts[other])))[at]
            order = torch.arange(sizes[dim]).reshape(-1, *[1] * (own.ndim - summed - 1))
            whole = own.shape[summed] == sizes[dim] and bool((own == order).all())
            if not whole or other in forward.made_of:
                return []
            found.append(place)
        else:
            return []
    return found if not set(forward.outputs) & known.keys() else []
