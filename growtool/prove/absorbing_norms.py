"""Norms whose gain and shift scale all that certain convolutions read.

A norm's result is proportional to its gain and shift, taken together. What is positively homogeneous (ReLU, pools,
padding by zeros, views) hands a positive factor on. So where convolutions are all that reads such a result, dividing
gain and shift by k divides what these convolutions put out before their bias by k, and nothing else.
"""

from __future__ import annotations

from collections import Counter

from growtool.trace.factors import is_convolution
from growtool.trace.kinds import is_homogeneous, is_linear_per_channel
from growtool.trace.steps import ForwardPass, Ref, Step

# f(c x) = c f(x) for c > 0, value by value or as the largest of several


def norms_in_front(forward: ForwardPass) -> dict[int, tuple[str, ...]]:
    """For the convolutions all of whose input such a norm scales: place of the step -> names of its gain and shift.

    Convolutions behind one norm have the same names; they are all that reads its result.
    """
    uses, read_by = forward.use_counts, forward.touched_by
    found: dict[int, tuple[str, ...]] = {}
    for place, step in enumerate(forward.steps):
        names = _affine(step, forward, uses)
        if names:
            found |= dict.fromkeys(_convolutions_behind(place, forward, read_by), names)
    return found


def _affine(step: Step, forward: ForwardPass, uses: Counter[str]) -> tuple[str, ...]:
    """The names of a norm's gain and shift, if they are parameters with no other use; none for anything else."""
    if not step.op.affine or step.ins[0] in forward.made_of:
        return ()
    given = [step.args[at] for at in step.op.affine if len(step.args) > at]
    affine = [leaf.number for leaf in given if isinstance(leaf, Ref)]
    names = tuple(name for number in affine for name in forward.stored.get(number, ()))
    lacking = not affine or not isinstance(given[0], Ref) or any(number not in forward.stored for number in affine)
    return () if lacking or any(uses[name] != 1 for name in names) else names


def _convolutions_behind(norm: int, forward: ForwardPass, read_by: dict[int, list[int]]) -> list[int]:
    """The places of the convolutions that read a norm's result; none if anything else reads it."""
    scaled, waiting = {forward.steps[norm].outs[0]}, [forward.steps[norm].outs[0]]
    found = dict[int, None]()
    while waiting:
        number = waiting.pop()
        if number in forward.outputs:
            return []
        for place in read_by[number]:
            step = forward.steps[place]
            if place <= norm:
                continue
            if is_convolution(step) and step.args[0].number == number and step.ins.count(number) == 1:
                found[place] = None
            elif _hands_on(step) and scaled.issuperset((*step.ins, *step.overwritten)):
                outs = step.outs if is_linear_per_channel(step) else step.outs[:1]  # a pool returns places, too
                new = [out for out in outs if out not in scaled]
                scaled.update(new)
                waiting += new
            else:
                return []
    return list(found)


def _hands_on(step: Step) -> bool:
    return is_homogeneous(step) or is_linear_per_channel(step)
