"""Blank channels through norms, and the gains that make up for them.

A LayerNorm over n old channels of mean zero and zeros beside them, m channels in all, sees the variance `s v` with
s = n / m. Its old channels come out `s^-1/2` times as large, so its gain times `s^1/2` makes up for the blanks, and
these stay zero: (0 - 0) g. The same holds for an RMSNorm, without any centring.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from growtool.algebra.expansion import Expansion, copies_per_position
from growtool.algebra.rewrite import RescaledNorm
from growtool.prove.blanks.state import AbstractState, BlankPass
from growtool.trace import Axis, ChannelGroup, groups_on
from growtool.trace.axes import axis_size
from growtool.trace.reading.norms import NORMS, norm_call, parameter_of
from growtool.trace.steps import Ref, Step
from growtool.trace.table.kinds import takes_batch_statistics


def batch_normed(blanks: BlankPass, step: Step) -> AbstractState:
    """Return the state of a BatchNorm: a norm of each channel over images and positions."""
    number = step.args[0].number
    others = tuple(dim for dim in range(len(blanks.trace.forward.layouts[number])) if dim != 1)
    if takes_batch_statistics(step) and blanks.lies_on(number, others):
        return AbstractState("open", blanks.lost(step, "a norm takes its statistics over the new channels"))
    x = blanks.state(number)
    if x.value not in ("same", "zero"):
        return AbstractState("open", blanks.lost(step, "BatchNorm reads the channels themselves, one by one"))
    # (0 - 0) g + 0
    added = [blanks.state(leaf.number).rows for leaf in step.args[2:4] if isinstance(leaf, Ref)]  # shift, running mean
    silent = x.rows == "silent" and all(rows == "silent" for rows in added)
    return AbstractState("silent" if silent else "open")


def normed(blanks: BlankPass, step: Step) -> AbstractState | None:
    """Return the state of a norm over the channels, or None for a norm over other axes."""
    norm = norm_call(step, blanks.trace.forward)
    if norm is None or not blanks.lies_on(norm.x, norm.dims):
        return None
    x = blanks.state(norm.x)
    if not _fits(x, norm.kind):
        return AbstractState("open", blanks.lost(step, _unfit(norm.kind, x)))
    axes = blanks.trace.forward.axes(norm.x)
    share = _share_of_copies(tuple(axes[dim] for dim in norm.dims), blanks.group, blanks.expansions)
    gain = parameter_of(norm.gain, blanks.trace.forward) if norm.gain is not None else None
    if share is None or gain is None or norm.eps is None:
        lacks = "without a gain of its own" if gain is None else "over channels that grow in different ways"
        return AbstractState("open", blanks.lost(step, f"{norm.kind} {lacks}"))
    blanks.norms.append(RescaledNorm(step.module, *gain, share, norm.eps))
    if norm.shift is None:
        return AbstractState("silent")
    added = blanks.state(norm.shift)
    if added.value == "centred":
        blanks.means_left.append(step.module)
    return AbstractState("silent" if added.rows == "silent" else "open", added.value)


def _fits(x: AbstractState, kind: str) -> bool:
    """Return whether blank channels come out of a norm as zeros, and old channels as multiples of the source's.

    A LayerNorm takes the mean off, so blanks that hold it (`lemon`) come out as zeros as well.
    """
    if kind == "RMSNorm":
        return x.rows == "silent" and x.value == "same"
    return (x.rows == "silent" and x.value in ("centred", "zero")) or (x.rows == "mean" and x.value in ("same", "zero"))


def require_gains_of_their_own(blanks: BlankPass) -> None:
    """Note a reason for each gain of a rescaled norm that has another use, or would need several factors."""
    factors = defaultdict[str, set[float]](set)
    for norm in blanks.norms:
        for name in norm.gains:
            factors[name].add(norm.s)
    used = Counter(
        name for step, number in blanks.trace.forward.uses if step.op.kind not in NORMS
        for name in blanks.trace.forward.made_of[number]
    )  # fmt: skip
    blanks.reasons += [
        (name, "a norm's gain that is used in another place too")
        for name, shares in factors.items()
        if len(shares) > 1 or used[name]
    ]


def _unfit(kind: str, x: AbstractState) -> str:
    if x.rows == "open":
        return f"{kind} over new channels that do not stay zero"
    return f"{kind} over channels whose mean cannot be made zero (no linear layer wrote them)"


def _share_of_copies(
    axes: tuple[Axis, ...], group: ChannelGroup, expansions: Mapping[ChannelGroup, Expansion]
) -> float | None:
    """Return the share of a norm's positions that are copies, or None where not all are copied equally often.

    Args:
        axes: the dimensions that are normalised; only the last may have channels.
        group: the channel group with the blanks.
        expansions: how each channel group grows.
    """
    *others, axis = axes
    if any(True for other in others for _ in groups_on(other)):
        return None
    source_size = 0
    for segment in axis:
        factors = [factor for factor in segment if isinstance(factor, ChannelGroup)]
        if len(factors) < len(segment) or factors.count(group) != 1:
            return None
        source_size += math.prod(expansions[f].size if f in expansions else f.size for f in factors)
    # the other groups on the axis, heads beside a head size, may have no blanks
    own = expansions[group]
    without_blanks = Expansion(own.size, own.index[~own.blank])
    copies = copies_per_position(axis, {**expansions, group: without_blanks})
    return None if copies is None else copies * source_size / axis_size(axis)
