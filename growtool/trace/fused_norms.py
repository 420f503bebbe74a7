"""Norms that torch computes in several operations, each as one step of the trace.

RMSNorm is `x * rsqrt(mean(x^2) + eps) * gain`. timm's SimpleNorm has `var(x)`, by N - 1, in place of the mean square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from growtool.trace.axes import Axis, axis_size
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, Op, divisor_correction, reduced_dims
from growtool.trace.table.ops import OPS

# first operation -> the norm's name and row, and the names of all operations up to the product with x
_NORMS = {
    "pow": ("rms_norm", OPS["rms_norm"], ("pow", "mean", "add", "rsqrt", "mul")),
    "var": ("variance_norm", Op(kind=Kind.VARIANCE_NORM, affine=(2,), eps=3), ("var", "add", "rsqrt", "mul")),
}
_Layouts = Mapping[int, tuple[Axis, ...]]


def with_fused_norms(
    steps: Sequence[Step], layouts: _Layouts, made_of: Mapping[int, frozenset[str]]
) -> tuple[Step, ...]:
    """Return the steps with each RMSNorm or SimpleNorm over the last axis as a single step.

    Args:
        steps: of a pass, in order.
        layouts: number of a tensor -> its axes.
        made_of: number of a tensor -> parameters and buffers, for tensors made of nothing else.
    """
    readers = defaultdict[int, list[int]](list)
    for place, step in enumerate(steps):
        for number in dict.fromkeys(step.ins):
            readers[number].append(place)
    written = {number for step in steps for number in step.overwritten}
    vectors = {number for number, names in made_of.items() if names and len(layouts[number]) == 1}

    def only_reader(place: int) -> int | None:
        """Return the place of the one step that reads a step's result, or that overwrites it first; None if others do.

        What reads it after it was overwritten reads the new values.
        """
        (out, *further) = steps[place].outs
        following = [reader for reader in readers[out] if reader > place]
        if further or out in written or not following:
            return None
        return following[0] if len(following) == 1 or steps[following[0]].outs == (out,) else None

    replaced: dict[int, Step | None] = {}  # place -> the norm that takes it, None if the step goes
    for place, step in enumerate(steps):
        chain = _chain(place, steps, only_reader, layouts)
        if chain is None:
            continue
        x, product, gain = step.args[0].number, steps[chain[-1]], None
        reader = only_reader(chain[-1])
        if reader is not None:
            gain = _gain(steps[reader], product.outs[0], vectors)
            if gain is not None:
                chain.append(reader)
        name, op, _ = _NORMS[step.name]
        last, added = steps[chain[-1]], next(steps[p].args[1] for p in chain if steps[p].name == "add")
        eps = float(f"{added:.8g}")  # torch's rms_norm has rounded it to float32, the type of the trace
        arguments = (Ref(x), (axis_size(layouts[x][-1]),), gain, eps)
        replaced |= dict.fromkeys(chain)
        replaced[chain[-1]] = Step(name, op, None, arguments, {}, last.outs, step.module, last.overwritten)
    fused = (replaced.get(place, step) for place, step in enumerate(steps))
    return tuple(step for step in fused if step is not None)


def _chain(
    start: int, steps: Sequence[Step], only_reader: Callable[[int], int | None], layouts: _Layouts
) -> list[int] | None:
    """Return the places of the steps of `x * rsqrt(...)`, the first at `start`; None if they are another thing."""
    step = steps[start]
    if step.name not in _NORMS or not isinstance(step.args[0], Ref):
        return None
    chain = [start]
    for name in _NORMS[step.name][2][1:]:
        following = only_reader(chain[-1])
        if following is None or steps[following].name != name or steps[following].module != step.module:
            return None
        chain.append(following)
    x = step.args[0].number
    # the product has to read the x that was measured
    if any(x in (*between.outs, *between.overwritten) for between in steps[start : chain[-1]]):
        return None
    *measure, add, _, product = (steps[place] for place in chain)
    plain = isinstance(add.args[1], int | float) and not add.kwargs
    measured = _measures_last_axis(measure, len(layouts[x]))
    return chain if measured and plain and x in product.ins and len(product.ins) == 2 else None


def _measures_last_axis(steps: Sequence[Step], ndim: int) -> bool:
    """Return whether steps compute a mean square, or a variance by N - 1, over the last axis and keep that axis."""
    last = steps[-1]
    if steps[0].name == "pow" and steps[0].args[1] != 2:
        return False
    if last.name == "var" and divisor_correction(last) != 1:
        return False
    keeps = last.kwargs.get("keepdim", last.arg(2, "keepdim")) is True
    return reduced_dims(last, ndim) == [ndim - 1] and keeps


def _gain(step: Step, normed: int, vectors: Collection[int]) -> Ref | None:
    """Return the vector made of parameters by which a step multiplies the normalised tensor; None if it does not."""
    others = [number for number in step.ins if number != normed]
    return Ref(others[0]) if step.name == "mul" and len(others) == 1 and others[0] in vectors else None
