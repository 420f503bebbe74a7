"""Norms that torch computes in five or six operations, which are one for whoever asks.

RMSNorm is `x * rsqrt(mean(x^2) + eps) * gain`; timm's SimpleNorm has a variance taken with N - 1 in place of the mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from growtool.trace.axes import Axis, axis_size
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import Kind, Op
from growtool.trace.table.ops import OPS
from growtool.trace.table.reductions import divisor_correction, reduced_dims

_SIZES = {  # first operation -> the norm, and the operations from there on
    "pow": ("rms_norm", OPS["rms_norm"], ("pow", "mean", "add", "rsqrt", "mul")),
    "var": ("variance_norm", Op(kind=Kind.VARIANCE_NORM, affine=(2,), eps=3), ("var", "add", "rsqrt", "mul")),
}
_Layouts = Mapping[int, tuple[Axis, ...]]


def with_fused_norms(
    steps: Sequence[Step], layouts: _Layouts, made_of: Mapping[int, frozenset[str]]
) -> tuple[Step, ...]:
    """The steps with every such norm over the last axis as one.

    Args:
        steps: of a pass, in order.
        layouts: number -> the axes of a tensor.
        made_of: number -> parameters and buffers, for tensors made of nothing else.
    """
    readers = defaultdict[int, list[int]](list)
    for place, step in enumerate(steps):
        for number in dict.fromkeys(step.ins):
            readers[number].append(place)
    written = {number for step in steps for number in step.overwritten}
    vectors = {number for number, names in made_of.items() if names and len(layouts[number]) == 1}

    def alone(place: int) -> int | None:
        """The place of the one operation that reads a result, or of one that overwrites it."""
        (out, *more) = steps[place].outs
        following = [reader for reader in readers[out] if reader > place]
        if more or out in written or not following:
            return None
        return following[0] if len(following) == 1 or steps[following[0]].outs == (out,) else None

    made: dict[int, Step | None] = {}
    for place, step in enumerate(steps):
        chain = _chain(place, steps, alone, layouts)
        if chain is None:
            continue
        x, gained = step.args[0].number, alone(chain[-1])
        gain = _gain(steps[gained], steps[chain[-1]].outs[0], vectors) if gained is not None else None
        if gain is not None and gained is not None:
            chain.append(gained)
        (name, op, _), added = _SIZES[step.name], next(steps[p] for p in chain if steps[p].name == "add")
        # the trace is in float32, in which torch rounds eps
        eps, last = float(f"{added.args[1]:.8g}"), steps[chain[-1]]
        arguments = (Ref(x), (axis_size(layouts[x][-1]),), gain, eps)
        made |= dict.fromkeys(chain)
        made[chain[-1]] = Step(name, op, step.module, arguments, {}, last.outs, last.overwritten)
    found = (made.get(place, step) for place, step in enumerate(steps))
    return tuple(step for step in found if step is not None)


def _chain(
    start: int, steps: Sequence[Step], alone: Callable[[int], int | None], layouts: _Layouts
) -> list[int] | None:
    """The places of the operations up to `x * rsqrt(...)`, None where they are others."""
    step = steps[start]
    if step.name not in _SIZES or not isinstance(step.args[0], Ref):
        return None
    chain = [start]
    for name in _SIZES[step.name][2][1:]:
        following = alone(chain[-1])
        if following is None or steps[following].name != name or steps[following].module != step.module:
            return None
        chain.append(following)
    x = step.args[0].number
    if any(x in (*between.outs, *between.overwritten) for between in steps[start : chain[-1]]):
        return None
    *size, add, _, product = (steps[place] for place in chain)
    plain = isinstance(add.args[1], int | float) and not add.kwargs
    return chain if _is_size(size, len(layouts[x])) and plain and x in product.ins and len(product.ins) == 2 else None


def _is_size(steps: Sequence[Step], ndim: int) -> bool:
    """Whether operations compute a mean square, or a variance by N - 1, over the last axis, which stays."""
    last = steps[-1]
    if steps[0].name == "pow" and steps[0].args[1] != 2:
        return False
    if last.name == "var" and divisor_correction(last) != 1:
        return False
    keeps = last.kwargs.get("keepdim", last.arg(2, "keepdim")) is True
    return reduced_dims(last, ndim) == [ndim - 1] and keeps


def _gain(step: Step, normed: int, vectors: Collection[int]) -> Ref | None:
    """The vector made of parameters that multiplies what was normalised."""
    others = [number for number in step.ins if number != normed]
    return Ref(others[0]) if step.name == "mul" and len(others) == 1 and others[0] in vectors else None
