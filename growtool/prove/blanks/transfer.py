"""What each kind of operation makes of states: one transfer function per kind, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from growtool.algebra.expansion import Blank
from growtool.prove.blanks.norms import batch_normed, normed
from growtool.prove.blanks.products import attended, multiplied
from growtool.prove.blanks.state import INFINITE, AbstractState, BlankPass
from growtool.trace.reading.norms import is_closed
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, is_linear_per_channel


def state_after(blanks: BlankPass, step: Step) -> AbstractState:
    """Return the state of the results of an operation, by its kind."""
    if any(state.value == "other" for state in blanks.states_of(step)):
        return AbstractState("open", "other")
    if step.op.affine and is_closed(step, lambda number: blanks.state(number).value == "zero"):
        return AbstractState("silent", "zero")
    return _TRANSFER.get(step.op.kind, _plain)(blanks, step)


def _normed(blanks: BlankPass, step: Step) -> AbstractState:
    """A norm over the channels of each position; over other axes it treats each channel alone."""
    state = normed(blanks, step)
    return _plain(blanks, step) if state is None else state


def _plain(blanks: BlankPass, step: Step) -> AbstractState:
    """Any other operation: one that sums channels up, a linear one, a function of each value, or an unknown one."""
    if blanks.vanishes(step):
        return _reduced(blanks, step)
    states = blanks.states_of(step)
    if is_linear_per_channel(step):
        carrying = [s for n, s in zip(step.ins, states, strict=True) if n in blanks.carrying]
        others = [s for n, s in zip(step.ins, states, strict=True) if n not in blanks.carrying]  # indices, say
        if all(state.value in ("same", "zero") for state in others):
            return blanks.joined(step, carrying or others)
    return blanks.elementwise(step, states)


def _reduced(blanks: BlankPass, step: Step) -> AbstractState:
    """A reduction over the channels: a plain sum is as before if zeros stand beside one copy of each channel."""
    (state,) = blanks.states_of(step)
    silent = state.rows == "silent" and state.value in ("same", "zero")
    alone = blanks.expansions[blanks.group].copies == 1
    if silent and step.op.kind is Kind.SUM and alone:
        blanks.needs_zeros(step.ins[0])
        return AbstractState()
    return AbstractState(None, blanks.lost(step, f"{step.name} over the new channels"))


def _added(blanks: BlankPass, step: Step) -> AbstractState:
    """A sum of two tensors, or of a tensor and a number."""
    states = blanks.states_of(step)
    carrying = [state for number, state in zip(step.ins, states, strict=True) if number in blanks.carrying]
    added = step.args[1]
    if len(states) == 2 and len(carrying) == 2:
        return blanks.joined(step, states)
    if isinstance(added, int | float) and added == 0:  # Python's `sum` begins with 0
        return states[0]
    zero_added = len(carrying) == 1 and all(state.value == "zero" for state in states if state is not carrying[0])
    return carrying[0] if zero_added and len(states) == 2 else blanks.elementwise(step, states)


def _scaled(blanks: BlankPass, step: Step) -> AbstractState:
    """A product or quotient of two tensors, or of a tensor and a number."""
    states = blanks.states_of(step)
    if len(states) == 1:  # a number by a tensor is a nonlinear function of it
        return states[0] if isinstance(step.args[0], Ref) else blanks.elementwise(step, states)
    pairs = list(zip(step.ins, states, strict=True))
    carrying = [state for number, state in pairs if number in blanks.carrying]
    others = [state for number, state in pairs if number not in blanks.carrying]
    if step.name == "div" and step.ins[-1] in blanks.carrying and isinstance(step.args[1], Ref):
        if states[-1].rows == "silent":
            return AbstractState("open", blanks.lost(step, INFINITE))
        return blanks.elementwise(step, states)
    if any(state.value == "zero" for state in states):
        return AbstractState("silent", "zero")
    if len(carrying) == 1 and others[0].value == "same":
        return carrying[0]
    # with its level a scale is whole again: (C diag(gamma / level) W x) * level = C diag(gamma) W x
    for scale, scaled in (states, states[::-1]):
        if scale.value == "level" and scaled.value == "unscaled" and scale.scale == scaled.scale:
            return AbstractState(scaled.rows, "same" if blanks.blank == "mean" else "centred")
    rows: Blank = "silent" if any(state.rows == "silent" for state in carrying) else "open"
    return replace(blanks.elementwise(step, states), rows=rows)


_TRANSFER: Mapping[Kind, Callable[[BlankPass, Step], AbstractState]] = {
    Kind.ADD: _added,
    Kind.MULTIPLY: _scaled,
    Kind.PRODUCT: multiplied,
    Kind.CONVOLUTION: multiplied,
    Kind.ATTENTION: attended,
    Kind.LAYER_NORM: _normed,
    Kind.RMS_NORM: _normed,
    Kind.BATCH_NORM: batch_normed,
}
