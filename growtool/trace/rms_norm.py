"""RMSNorm in a recorded pass: torch computes it in five or six operations, which are one for whoever asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from growtool.trace.axes import Axis, axis_size
from growtool.trace.ops import OPS
from growtool.trace.steps import Ref, Step

_PATTERN = ("pow", "mean", "add", "rsqrt", "mul")


_Layouts = Mapping[int, tuple[Axis, ...]]


def with_rms_norms(steps: Sequence[Step], layouts: _Layouts, stored: Mapping[int, tuple[str, ...]]) -> tuple[Step, ...]:
    """The steps with every `x * rsqrt(mean(x^2) + eps) * gain` over the last axis as one `rms_norm`.

    Args:
        steps: of a pass, in order.
        layouts: number -> the axes of a tensor.
        stored: numbers of parameters and buffers.
    """
    readers = defaultdict[int, list[int]](list)
    for place, step in enumerate(steps):
        for number in dict.fromkeys(step.ins):
            readers[number].append(place)
    written = {number for step in steps for number in step.overwritten}

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
        gain = _gain(steps[gained], steps[chain[-1]].outs[0], stored) if gained is not None else None
        if gain is not None and gained is not None:
            chain.append(gained)
        # the trace is in float32, in which torch rounds eps
        eps, last = float(f"{steps[chain[2]].args[1]:.8g}"), steps[chain[-1]]
        arguments = (Ref(x), (axis_size(layouts[x][-1]),), gain, eps)
        made |= dict.fromkeys(chain)
        made[chain[-1]] = Step("rms_norm", OPS["rms_norm"], step.module, arguments, {}, last.outs, last.overwritten)
    found = (made.get(place, step) for place, step in enumerate(steps))
    return tuple(step for step in found if step is not None)


def _chain(
    start: int, steps: Sequence[Step], alone: Callable[[int], int | None], layouts: _Layouts
) -> list[int] | None:
    """The places of x^2 to x * rsqrt(...), None where the operations are others."""
    step = steps[start]
    if step.name != "pow" or not isinstance(step.args[0], Ref) or step.args[1] != 2:
        return None
    chain = [start]
    for name in _PATTERN[1:]:
        following = alone(chain[-1])
        if following is None or steps[following].name != name or steps[following].module != step.module:
            return None
        chain.append(following)
    x = step.args[0].number
    if any(x in (*between.outs, *between.overwritten) for between in steps[start : chain[-1]]):
        return None
    _, mean, add, _, product = (steps[place] for place in chain)
    last = len(layouts[x]) - 1
    over_last = [dim % (last + 1) for dim in mean.args[1]] == [last] and mean.arg(2, "keepdim") is True
    plain = isinstance(add.args[1], int | float) and not add.kwargs
    return chain if over_last and plain and x in product.ins and len(product.ins) == 2 else None


def _gain(step: Step, normed: int, stored: Mapping[int, tuple[str, ...]]) -> Ref | None:
    """The parameter that multiplies what was normalised."""
    others = [number for number in step.ins if number != normed]
    return Ref(others[0]) if step.name == "mul" and len(others) == 1 and others[0] in stored else None
