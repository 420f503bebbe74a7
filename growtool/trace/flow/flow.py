"""What would remain of a tensor if some parameters were zero: how residual branches are found.

Three facts travel with every activation. `zeroed_by` names parameters that turn it into zeros when they are zero (the
last affine layer it came through). `bases` says which earlier tensors it equals once certain parameters are zero and
certain layers pass on what they receive: after `x + gamma * f(x)` it equals x if gamma is zero. `lost` says which
operation ended that. A module whose output equals its input on those terms is a residual block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from growtool.trace.flow.layout import Digit, Layout, in_place

_tokens = itertools.count()

Params = frozenset[str]


class Window(NamedTuple):
    """Positions `start` to `stop` of dimension `dim`, which has `size` of them."""

    dim: int
    start: int
    stop: int
    size: int


class Normed(NamedTuple):
    """What a norm over the last dimensions made a tensor.

    Attributes:
        norm: its name, the sizes of these dimensions, and whether it has a gain and a shift.
        affine: its gain and shift.
    """

    norm: tuple[object, ...]
    affine: Params


class Base(NamedTuple):
    """How a tensor holds the elements of an earlier one.

    Attributes:
        params: it does so once these are zero,
        layout: laid out so,
        passing: once these are parameters and buffers of layers that pass on what they receive,
        window: and of the earlier tensor only these positions; None: all of it.
        plain: once these are gains of one and shifts of zero, but for the eps of norms.
    """

    params: Params
    layout: Layout
    passing: Params = frozenset()
    window: Window | None = None
    plain: Params = frozenset()

    def is_all(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is the earlier one, element by element."""
        return self.window is None and self.layout == in_place(shape)


@dataclass(frozen=True, slots=True)
class Flow:
    """What would remain of a tensor if parameters were zero.

    Attributes:
        bases: token of an earlier tensor -> how this tensor equals it.
        zeroed_by: parameters that make this tensor zero, or None.
        lost: token of an earlier tensor that it was made of and equals on no terms -> the operation that made it so.
        activation: the idempotent activation this tensor went through last (a second one would change nothing).
        normed: the norm that this very tensor came out of.
        token: the identity of this very tensor.
    """

    bases: Mapping[int, Base] = field(default_factory=dict)
    zeroed_by: Params | None = None
    lost: Mapping[int, str] = field(default_factory=dict)
    activation: str | None = None
    normed: Normed | None = None
    token: int = field(default_factory=lambda: next(_tokens))

    def renewed(self, **changes: object) -> Flow:
        """The flow of a new tensor with the same facts, except for `changes`."""
        return replace(self, token=next(_tokens), **changes)  # type: ignore[arg-type]

    def among(self, tokens: Mapping[int, int]) -> Flow:
        """The same tensor, remembering of its bases only those with a positive count in `tokens`."""
        bases = {token: base for token, base in self.bases.items() if tokens.get(token, 0) > 0}
        lost = {token: where for token, where in self.lost.items() if tokens.get(token, 0) > 0}
        same = len(bases) == len(self.bases) and len(lost) == len(self.lost)
        return self if same else replace(self, bases=bases, lost=lost)

    def reachable(self, shape: Sequence[int]) -> dict[int, Base]:
        """Every tensor this one, of the given shape, equals under some zeroing, itself included."""
        return {**self.bases, self.token: Base(frozenset(), in_place(shape))}


def rearranged(source: Flow, shape: Sequence[int], move: Callable[[Layout], Layout | None]) -> Flow:
    """The flow of a tensor with the elements of `source`, of the given shape, in places that `move` tells."""
    moved = ((token, base, move(base.layout)) for token, base in source.reachable(shape).items())
    bases = {token: base._replace(layout=layout) for token, base, layout in moved if layout is not None}
    return source.renewed(bases=bases, normed=None)


def sliced(source: Flow, shape: Sequence[int], dim: int, start: int, stop: int) -> Flow:
    """The flow of positions `start` to `stop` along `dim` of a tensor with this shape."""
    if (start, stop) == (0, shape[dim]):
        return rearranged(source, shape, lambda layout: layout)
    bases = {}
    for token, base in source.reachable(shape).items():
        window = _cut(base, dim, start, stop) if start < stop else None
        if window is not None:
            layout = (*base.layout[:dim], _run(window.dim, stop - start), *base.layout[dim + 1 :])
            bases[token] = base._replace(layout=layout, window=window)
    return source.renewed(bases=bases, normed=None)


def _cut(base: Base, dim: int, start: int, stop: int) -> Window | None:
    """The window that a cut along `dim` leaves; None where that is no whole dimension, or not the one cut before."""
    if len(base.layout[dim]) != 1:
        return None
    (of, stride, size) = base.layout[dim][0]
    whole = sum(digit[0] == of for digits in base.layout for digit in digits) == 1 and stride == 1
    if not whole or (base.window is not None and base.window.dim != of):
        return None
    offset, total = (base.window.start, base.window.size) if base.window else (0, size)
    return Window(of, offset + start, offset + stop, total)


def joined(parts: Sequence[Flow], shapes: Sequence[Sequence[int]], dim: int) -> dict[int, Base]:
    """What a concatenation along `dim` equals: an earlier tensor whose cuts follow each other in it, all of it."""
    reachable = [part.reachable(shape) for part, shape in zip(parts, shapes, strict=True)]
    found = {}
    for token in set.intersection(*map(set, reachable)):
        bases = [bases[token] for bases in reachable]
        windows = [base.window for base in bases]
        first = windows[0]
        if first is None or any(w is None or w.dim != first.dim for w in windows):
            continue
        cuts = [w for w in windows if w is not None]
        follow = all(before.stop == after.start for before, after in itertools.pairwise(cuts))
        runs = [(*b.layout[:dim], (), *b.layout[dim + 1 :]) for b in bases]
        along = all(b.layout[dim] == _run(w.dim, w.stop - w.start) for b, w in zip(bases, cuts, strict=True))
        if not (follow and along and all(run == runs[0] for run in runs)):
            continue
        window = first._replace(stop=cuts[-1].stop)
        layout = (*runs[0][:dim], _run(first.dim, window.stop - window.start), *runs[0][dim + 1 :])
        is_all = (window.start, window.stop) == (0, window.size)
        params, passing, plain = (
            frozenset().union(*sets) for sets in zip(*((b.params, b.passing, b.plain) for b in bases), strict=True)
        )
        if not params & (passing | plain):
            found[token] = Base(params, layout, passing, None if is_all else window, plain)
    return found


def _run(dim: int, size: int) -> tuple[Digit, ...]:
    return ((dim, 1, size),) if size > 1 else ()


def passed(source: Flow, shape: Sequence[int], layer: Params) -> dict[int, Base]:
    """What the output of a layer equals if the layer, of these parameters, passes on what it receives."""
    return {
        token: base._replace(passing=base.passing | layer)
        for token, base in source.reachable(shape).items()
        if not layer & base.params
    }


def normed_again(source: Flow, shape: Sequence[int], by: Normed, norms: Mapping[int, Normed]) -> dict[int, Base]:
    """What the output of a norm equals if what it receives came out of such a norm, with plain gains and shifts.

    Args:
        source: the flow of what it receives, of the given shape.
        shape: of that.
        by: the norm.
        norms: token of a tensor -> the norm that it came out of.
    """
    found = {}
    for token, base in source.reachable(shape).items():
        before = norms.get(token)
        if before is not None and before.norm == by.norm and base.is_all(shape) and not by.affine & base.params:
            found[token] = base._replace(plain=base.plain | by.affine | before.affine)
    return found


def added(left: Flow, right: Flow, shape: Sequence[int]) -> Flow:
    """The flow of `left + right`, both activations of the same shape."""
    bases: dict[int, Base] = {}
    for stream, branch in ((left, right), (right, left)):
        if branch.zeroed_by is None:
            continue
        for token, base in stream.reachable(shape).items():
            known = bases.get(token)
            if branch.zeroed_by & (base.passing | base.plain):
                continue
            if known is None or len(base.passing) < len(known.passing):
                bases[token] = base._replace(params=base.params | branch.zeroed_by)
    if left.zeroed_by is None or right.zeroed_by is None:
        return Flow(bases=bases)
    return Flow(bases=bases, zeroed_by=left.zeroed_by | right.zeroed_by)


def activated(source: Flow, shape: Sequence[int], name: str, activations: Mapping[int, str]) -> Flow:
    """The flow of an idempotent activation such as relu; `activations` says what other tensors went through."""
    kept = {token: base for token, base in source.reachable(shape).items() if activations.get(token) == name}
    return Flow(bases=kept, zeroed_by=source.zeroed_by, activation=name)
