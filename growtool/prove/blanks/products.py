"""Blank channels through sums: matrix products, convolutions, attention."""

from __future__ import annotations

from dataclasses import replace

from growtool.prove.blanks.state import AbstractState, BlankPass, Value
from growtool.trace import groups_on
from growtool.trace.reading.factors import product_of
from growtool.trace.steps import Step


def multiplied(blanks: BlankPass, step: Step) -> AbstractState:
    """Return the state of a matrix product or a convolution.

    The channels may be summed over (a weight reads them), be kept by one operand (a weight writes them, or a product
    runs over other axes), or both.
    """
    product = product_of(step, blanks.trace.forward)
    assert product is not None
    kept = product.keeps(blanks.group)
    left, right = map(blanks.state, product.operands)
    if product.sums(blanks.group):
        if _consumed(blanks, step, product.operands) == "other":
            return AbstractState("open", "other")
        # the channels summed over are gone: an operand matters only as far as it brings its own into the result
        left, right = (state if keeps else AbstractState() for state, keeps in zip((left, right), kept, strict=True))
    carrying = [state for state, keeps in zip((left, right), kept, strict=True) if keeps]
    others = [state for state, keeps in zip((left, right), kept, strict=True) if not keeps]
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
    """Return the state of a product with its bias added."""
    if result.rows is None or bias in blanks.carrying:
        return blanks.joined(step, [result, blanks.state(bias)])
    # the bias is added along another axis: the same number in all channels, blank ones too
    return blanks.elementwise(step, [replace(result, rows="open"), blanks.state(bias)])


def _consumed(blanks: BlankPass, step: Step, operands: tuple[int, int]) -> Value:
    """Return `same` if a sum over the channels is that of the source, else note the reason and return `other`.

    A weight that reads the channels has zeros in its blank columns, unless these only ever meet zeros. Then they are
    free to hold anything.
    """
    forward = blanks.trace.forward
    for weight, read in (operands[::-1], operands):
        names = forward.made_of.get(weight)
        if not names:
            continue
        state = blanks.state(read)
        # `silent` columns of another weight do not count: if they are free they hold anything after all
        zeros = state.rows == "silent" and not forward.made_of.get(read)
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
    """Return whether a weight has zeros where it reads blank channels, if the parameters it is made of have.

    A square matrix of the channels is also written at blank rows, so its state does not tell of its columns.
    """
    if blanks.occurrences(weight) == 1:
        return blanks.state(weight).rows == "silent"
    return names <= blanks.readers


def _multiplied_over(blanks: BlankPass, step: Step, operands: tuple[int, int]) -> Value:
    """Return `same` if a sum over the channels of products of two activations is that of the source, else `other`.

    It is if one of them is zero at blank channels, and the old channels have a single copy each.
    """
    states = list(map(blanks.state, operands))
    single = blanks.expansions[blanks.group].copies == 1
    if single and any(state.rows == "silent" for state in states) and all(s.value == "same" for s in states):
        return "same"
    return blanks.lost(step, "two activations are multiplied and summed over the new channels")


def attended(blanks: BlankPass, step: Step) -> AbstractState:
    """Return the state of fused attention, which has the channels of the values."""
    query, key, value = (step.args[i].number for i in range(3))
    axes = blanks.trace.forward.axes
    if blanks.group in groups_on(axes(query)[-1]):
        if _multiplied_over(blanks, step, (query, key)) == "other":
            return AbstractState("open", "other")
    elif any(blanks.state(number).value != "same" for number in (query, key)):
        return AbstractState("open", blanks.lost(step, "attention reads the channels themselves, not through a norm"))
    return blanks.state(value)
