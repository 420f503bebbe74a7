"""Blank channels through sums: matrix products, convolutions, attention."""

from __future__ import annotations

from dataclasses import replace

from growtool.prove.blank_pass import AbstractState, BlankPass, Value
from growtool.trace import groups_on
from growtool.trace.factors import bias_of, operands_of, summed_dims
from growtool.trace.steps import Step


def convolved(blanks: BlankPass, step: Step) -> AbstractState:
    """A convolution, grouped or not."""
    return multiplied(blanks, step) if operands_of(step) is not None else _grouped(blanks, step)


def multiplied(blanks: BlankPass, step: Step) -> AbstractState:
    """A matrix product, or an ungrouped convolution."""
    operands = operands_of(step)
    assert operands is not None
    axes = [blanks.trace.forward.axes(number) for number in operands]
    summed = summed_dims(step, (len(axes[0]), len(axes[1])))
    over = any(blanks.group in groups_on(own[dim]) for own, dim in zip(axes, summed, strict=True))
    free = [
        any(blanks.group in groups_on(axis) for i, axis in enumerate(own) if i != dim)
        for own, dim in zip(axes, summed, strict=True)
    ]
    return _product(blanks, step, operands, over=over, free=free)


def _product(
    blanks: BlankPass, step: Step, operands: tuple[int, int], *, over: bool, free: list[bool]
) -> AbstractState:
    left, right = (blanks.state(number) for number in operands)
    if over:
        value = _consumed(blanks, step, operands)
        if value == "other":
            return AbstractState("open", "other")
        # what is summed over is gone: only what an operand says of its rows remains
        left, right = (s if f else AbstractState() for s, f in zip((left, right), free, strict=True))
    carrying = [state for state, is_free in zip((left, right), free, strict=True) if is_free]
    others = [state for state, is_free in zip((left, right), free, strict=True) if not is_free]
    if any(state.value == "zero" for state in (left, right)):
        result = AbstractState("silent" if carrying else None, "zero")
    elif any(state.value != "same" for state in others) or (
        len(carrying) == 2 and any(state.value != "same" for state in carrying)
    ):
        return AbstractState("open", blanks.lost(step, "two activations are multiplied"))
    elif len(carrying) == 2:
        result = AbstractState("silent" if "silent" in (left.rows, right.rows) else "open")
    else:
        result = carrying[0] if carrying else AbstractState()
    return _shifted(blanks, step, result)


def _shifted(blanks: BlankPass, step: Step, result: AbstractState) -> AbstractState:
    bias = bias_of(step)
    if bias is None:
        return result
    if result.rows is None or bias in blanks.carrying:
        return blanks.together(step, [result, blanks.state(bias)])
    return blanks.elementwise(step, [replace(result, rows="open"), blanks.state(bias)])


def _consumed(blanks: BlankPass, step: Step, operands: tuple[int, int]) -> Value:
    """A sum over these channels: by a parameter, whose new columns meet zeros or become so; or of activations."""
    forward = blanks.trace.forward
    for weight, read in (operands[::-1], operands):
        names = forward.made_of.get(weight)
        if not names:
            continue
        read_there = {name for group, name, _ in blanks.trace.consumers if group is blanks.group}
        if forward.has_constants(weight) or read_there.isdisjoint(names):
            return blanks.lost(step, "the new channels are summed with numbers that are no parameter's own")
        state = blanks.state(read)
        blanks.read |= names
        if state.rows != "silent":
            blanks.nonzero_readers |= names
        if state.value not in ("same", "zero"):
            return blanks.lost(step, "reads the channels themselves, not through a norm")
        return "same"
    states = [blanks.state(number) for number in operands]
    alone = blanks.expansions[blanks.group].copies == 1
    if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
        return "same"
    return blanks.lost(step, "two activations are multiplied and summed over the new channels")


def _grouped(blanks: BlankPass, step: Step) -> AbstractState:
    forward = blanks.trace.forward
    x, weight = step.args[0].number, step.args[1].number
    rows, columns = forward.axes(weight)[:2] if not step.args[6] else forward.axes(weight)[1::-1]
    over = blanks.group in groups_on(columns)
    return _product(
        blanks, step, (x, weight), over=over, free=[x in blanks.carrying and not over, blanks.group in groups_on(rows)]
    )


def attended(blanks: BlankPass, step: Step) -> AbstractState:
    """Fused attention."""
    query, key, value = (step.args[i].number for i in range(3))
    axes = blanks.trace.forward.axes
    if blanks.group in groups_on(axes(query)[-1]):
        kept = _consumed_by_attention(blanks, step, query, key)
        if kept == "other":
            return AbstractState("open", "other")
    elif any(blanks.state(number).value != "same" for number in (query, key)):
        return AbstractState("open", blanks.lost(step, "attention reads the channels themselves, not through a norm"))
    return blanks.state(value)


def _consumed_by_attention(blanks: BlankPass, step: Step, query: int, key: int) -> Value:
    states = [blanks.state(query), blanks.state(key)]
    alone = blanks.expansions[blanks.group].copies == 1
    if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
        return "same"
    return blanks.lost(step, "two activations are multiplied and summed over the new channels")
