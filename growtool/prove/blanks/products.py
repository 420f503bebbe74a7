"""Blank channels through sums: matrix products, convolutions, attention."""

from __future__ import annotations

from dataclasses import replace

from growtool.prove.blanks.state import AbstractState, BlankPass, Value
from growtool.trace import groups_on
from growtool.trace.reading.factors import product_of
from growtool.trace.steps import Step


def multiplied(blanks: BlankPass, step: Step) -> AbstractState:
    """A matrix product or a convolution."""
    product = product_of(step, blanks.trace.forward)
    assert product is not None
    kept = product.keeps(blanks.group)
    left, right = map(blanks.state, product.operands)
    if product.sums(blanks.group):
        if _consumed(blanks, step, product.operands) == "other":
            return AbstractState("open", "other")
        # what is summed over is gone: only what an operand says of its rows remains
        left, right = (s if k else AbstractState() for s, k in zip((left, right), kept, strict=True))
    carrying = [state for state, is_kept in zip((left, right), kept, strict=True) if is_kept]
    others = [state for state, is_kept in zip((left, right), kept, strict=True) if not is_kept]
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
    return result if product.bias is None else _shifted(blanks, step, result, product.bias)


def _shifted(blanks: BlankPass, step: Step, result: AbstractState, bias: int) -> AbstractState:
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
        state = blanks.state(read)
        zeros = state.rows == "silent" and not forward.made_of.get(read)  # columns of a weight may hold anything
        if forward.has_constants(weight) or not (zeros or _has_zeros(blanks, weight, names)):
            return blanks.lost(step, "the new channels are summed with numbers that are no parameter's own")
        blanks.read |= names
        if not zeros:
            blanks.nonzero_readers |= names
        if state.value not in ("same", "zero"):
            return blanks.lost(step, "reads the channels themselves, not through a norm")
        return "same"
    return _multiplied_over(blanks, step, operands)


def _has_zeros(blanks: BlankPass, weight: int, names: frozenset[str]) -> bool:
    """Whether a weight is zero where it reads new channels, if the parameters that it is made of are."""
    if blanks.times(weight) == 1:
        return blanks.state(weight).rows == "silent"
    return names <= blanks.readers


def _multiplied_over(blanks: BlankPass, step: Step, operands: tuple[int, int]) -> Value:
    """A sum over these channels of products of two activations is as before where one is zero at every new channel."""
    states = list(map(blanks.state, operands))
    alone = blanks.expansions[blanks.group].copies == 1
    if alone and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
        return "same"
    return blanks.lost(step, "two activations are multiplied and summed over the new channels")


def attended(blanks: BlankPass, step: Step) -> AbstractState:
    """Fused attention."""
    query, key, value = (step.args[i].number for i in range(3))
    axes = blanks.trace.forward.axes
    if blanks.group in groups_on(axes(query)[-1]):
        if _multiplied_over(blanks, step, (query, key)) == "other":
            return AbstractState("open", "other")
    elif any(blanks.state(number).value != "same" for number in (query, key)):
        return AbstractState("open", blanks.lost(step, "attention reads the channels themselves, not through a norm"))
    return blanks.state(value)
