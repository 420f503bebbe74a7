"""What would remain of a tensor if some parameters were zero: how residual blocks are found.

Three facts travel with every activation, in its `Flow`:

- `zeroed_by`: parameters that make it zero if they are zero; those of the last affine layer on its way.
- `bases`: the earlier tensors that it equals once certain parameters are zero and certain layers compute the identity.
  `x + gamma * f(x)` equals x if gamma is zero.
- `lost`: the earlier tensors that it was made of and does not equal on any terms, with the operation that ended it.

A module whose output has its input among the bases is a residual block.

The functions below tell the flow, or the bases, of an operation's result; `source` and `shape` are those of its input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from growtool.trace.flow.layout import Digit, Layout, in_place

_tokens = itertools.count()

Params = frozenset[str]  # names of parameters and buffers


class Window(NamedTuple):
    """Positions `start` to `stop`, exclusive, of a dimension `dim` of `size` positions."""

    dim: int
    start: int
    stop: int
    size: int


class Normed(NamedTuple):
    """A norm over the last dimensions that a tensor came out of.

    Attributes:
        norm: the norm's name, the sizes of these dimensions, and whether it has a gain and a shift.
        affine: names of the gain and the shift.
    """

    norm: tuple[object, ...]
    affine: Params


class Base(NamedTuple):
    """An earlier tensor whose elements a tensor holds on certain terms, which hold together.

    Attributes:
        params: parameters that have to be zero.
        layout: where the elements of the earlier tensor lie.
        identity_layers: parameters and buffers of layers that have to compute the identity.
        window: the positions of the earlier tensor that it holds; None for all of them.
        unit_affine: gains that have to be one and shifts that have to be zero. The norms then repeat an earlier one, up
            to their eps.
        activation, normed: of the earlier tensor, as in `Flow`.
    """

    params: Params
    layout: Layout
    identity_layers: Params = frozenset()
    window: Window | None = None
    unit_affine: Params = frozenset()
    activation: str | None = None
    normed: Normed | None = None

    def is_all(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor of this shape is the earlier one, element by element."""
        return self.window is None and self.layout == in_place(shape)


@dataclass(frozen=True, slots=True)
class Flow:
    """What would remain of a tensor if parameters were zero.

    Attributes:
        bases: token of an earlier tensor -> the terms on which this tensor holds its elements.
        zeroed_by: parameters that make this tensor zero if they are zero; None if none do.
        lost: token of an earlier tensor that this one was made of and does not equal on any terms -> the operation that
            ended it.
        activation: the idempotent activation that all values went through; applied again, it changes nothing.
        normed: the norm whose result this tensor is.
        token: identifies the tensor as it was written by one operation.
    """

    bases: Mapping[int, Base] = field(default_factory=dict)
    zeroed_by: Params | None = None
    lost: Mapping[int, str] = field(default_factory=dict)
    activation: str | None = None
    normed: Normed | None = None
    token: int = field(default_factory=lambda: next(_tokens))

    def renewed(self, **changes: object) -> Flow:
        """Return the flow of a new tensor with the same facts, except for `changes`."""
        return replace(self, token=next(_tokens), **changes)  # type: ignore[arg-type]

    def among(self, tokens: Mapping[int, int]) -> Flow:
        """Return the flow without the bases and losses whose token has no positive count; others need not be kept."""
        bases = {token: base for token, base in self.bases.items() if tokens.get(token, 0) > 0}
        lost = {token: where for token, where in self.lost.items() if tokens.get(token, 0) > 0}
        same = len(bases) == len(self.bases) and len(lost) == len(self.lost)
        return self if same else replace(self, bases=bases, lost=lost)

    def reachable(self, shape: Sequence[int]) -> dict[int, Base]:
        """Return the terms for every tensor that this one, of the given shape, can equal; itself included, on none."""
        itself = Base(frozenset(), in_place(shape), activation=self.activation, normed=self.normed)
        return {**self.bases, self.token: itself}


def rearranged(source: Flow, shape: Sequence[int], move: Callable[[Layout], Layout | None]) -> Flow:
    """Return the flow of a tensor that holds the elements of another one in other places.

    `move` gives the new layout for an old one, None if there is none.
    """
    moved = ((token, base, move(base.layout)) for token, base in source.reachable(shape).items())
    bases = {token: base._replace(layout=layout) for token, base, layout in moved if layout is not None}
    return source.renewed(bases=bases, normed=None)


def sliced(source: Flow, shape: Sequence[int], dim: int, start: int, stop: int) -> Flow:
    """Return the flow of positions `start` to `stop` along `dim` of a tensor of this shape."""
    if (start, stop) == (0, shape[dim]):
        return rearranged(source, shape, lambda layout: layout)
    bases = {}
    for token, base in source.reachable(shape).items():
        window = _cut(base, dim, start, stop) if start < stop else None
        if window is not None:
            layout = (*base.layout[:dim], _in_order(window.dim, stop - start), *base.layout[dim + 1 :])
            bases[token] = base._replace(layout=layout, window=window)
    return source.renewed(bases=bases, normed=None)


def _cut(base: Base, dim: int, start: int, stop: int) -> Window | None:
    """Return the window of the earlier tensor that a cut along `dim` leaves; None if it is no window.

    The cut has to run along one whole dimension of the earlier tensor, the same one as any cut before.
    """
    if len(base.layout[dim]) != 1:
        return None
    (cut_dim, stride, size) = base.layout[dim][0]
    whole = sum(digit[0] == cut_dim for digits in base.layout for digit in digits) == 1 and stride == 1
    if not whole or (base.window is not None and base.window.dim != cut_dim):
        return None
    offset, total = (base.window.start, base.window.size) if base.window else (0, size)
    return Window(cut_dim, offset + start, offset + stop, total)


def joined(parts: Sequence[Flow], shapes: Sequence[Sequence[int]], dim: int) -> dict[int, Base]:
    """Return the bases of a concatenation along `dim`: earlier tensors of which the parts are adjacent windows.

    A block that leaves the class token alone, `cat([x[:, :1], x[:, 1:] + f(x[:, 1:])], 1)`, is x if f is zero.
    """
    reachable = [part.reachable(shape) for part, shape in zip(parts, shapes, strict=True)]
    bases = {}
    for token in set.intersection(*map(set, reachable)):
        base = _joined([part[token] for part in reachable], dim)
        if base is not None:
            bases[token] = base
    return bases


def _joined(parts: Sequence[Base], dim: int) -> Base | None:
    """Return how a concatenation of parts of one earlier tensor holds its elements; None if it is no window of it."""
    windows = [part.window for part in parts if part.window is not None]
    if len(windows) < len(parts) or any(window.dim != windows[0].dim for window in windows):
        return None
    adjacent = all(before.stop == after.start for before, after in itertools.pairwise(windows))
    in_order = all(
        part.layout[dim] == _in_order(window.dim, window.stop - window.start)
        for part, window in zip(parts, windows, strict=True)
    )
    beside = {(*part.layout[:dim], (), *part.layout[dim + 1 :]) for part in parts}  # layouts, but for `dim`
    if not adjacent or not in_order or len(beside) > 1:
        return None
    params, identity_layers, unit_affine = (
        frozenset().union(*sets)
        for sets in zip(*((p.params, p.identity_layers, p.unit_affine) for p in parts), strict=True)
    )
    if params & (identity_layers | unit_affine):
        return None
    window = windows[0]._replace(stop=windows[-1].stop)
    (layout,) = beside
    layout = (*layout[:dim], _in_order(window.dim, window.stop - window.start), *layout[dim + 1 :])
    is_all = (window.start, window.stop) == (0, window.size)
    return parts[0]._replace(
        params=params,
        layout=layout,
        identity_layers=identity_layers,
        window=None if is_all else window,
        unit_affine=unit_affine,
    )


def _in_order(dim: int, size: int) -> tuple[Digit, ...]:
    """Return the layout of one dimension that holds positions of `dim` in their order."""
    return ((dim, 1, size),) if size > 1 else ()


def passed(source: Flow, shape: Sequence[int], layer: Params) -> dict[int, Base]:
    """Return the bases of the output of a layer that can compute the identity.

    None of its parameters and buffers, `layer`, can have to be zero as well.
    """
    return {
        token: base._replace(identity_layers=base.identity_layers | layer)
        for token, base in source.reachable(shape).items()
        if not layer & base.params
    }


def normed_again(source: Flow, shape: Sequence[int], by: Normed) -> dict[int, Base]:
    """Return the bases of the output of a norm: earlier tensors that such a norm made.

    What is normalised stays as it is in a second norm, but for its eps: `norm(norm(x)) = norm(x)`, if both have gains
    of one and shifts of zero. So a block that ends in a LayerNorm (post-norm) can be the identity.
    """
    bases = {}
    for token, base in source.reachable(shape).items():
        before = base.normed
        if before is not None and before.norm == by.norm and base.is_all(shape) and not by.affine & base.params:
            bases[token] = base._replace(unit_affine=base.unit_affine | by.affine | before.affine)
    return bases


def added(left: Flow, right: Flow, shape: Sequence[int]) -> Flow:
    """Return the flow of `left + right`, two activations of the same shape."""
    bases: dict[int, Base] = {}
    for stream, branch in ((left, right), (right, left)):
        if branch.zeroed_by is None:
            continue
        for token, base in stream.reachable(shape).items():
            # a parameter cannot be zero and part of an identity, or a gain of one, at the same time
            if branch.zeroed_by & (base.identity_layers | base.unit_affine):
                continue
            known = bases.get(token)
            if known is None or len(base.identity_layers) < len(known.identity_layers):
                bases[token] = base._replace(params=base.params | branch.zeroed_by)
    if left.zeroed_by is None or right.zeroed_by is None:
        return Flow(bases=bases)
    return Flow(bases=bases, zeroed_by=left.zeroed_by | right.zeroed_by)


def activated(source: Flow, shape: Sequence[int], name: str) -> Flow:
    """Return the flow of the result of an idempotent activation such as relu.

    `relu(x)` is x if x came out of a relu itself; so a block that ends in one can be the identity. The name of the
    activation comes with its numbers.
    """
    kept = {token: base for token, base in source.reachable(shape).items() if base.activation == name}
    return Flow(bases=kept, zeroed_by=source.zeroed_by, activation=name)
