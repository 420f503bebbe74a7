"""What would remain of a tensor if some parameters were zero: how residual branches are found.

Two facts travel with every activation. `zeroed_by` names parameters that turn it into zeros when they are zero (the
last affine layer it came through). `bases` says which earlier tensors it equals once certain parameters are zero: after
`x + gamma * f(x)` it equals x if gamma is zero. A module whose output equals its input on those terms is a residual
block, and the parameters are its exits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from growtool.coupling.layout import Layout, in_place

_tokens = itertools.count()

Params = frozenset[str]


class Base(NamedTuple):
    """How a tensor holds the elements of an earlier one: once `params` are zero, and laid out as `layout` says."""

    params: Params
    layout: Layout


@dataclass(frozen=True, slots=True)
class Flow:
    """Attributes:

    bases: token of an earlier tensor -> how this tensor equals it.
    zeroed_by: parameters that make this tensor zero, or None.
    activation: the idempotent activation this tensor went through last (a second one would change nothing).
    token: the identity of this very tensor.
    """

    bases: Mapping[int, Base] = field(default_factory=dict)
    zeroed_by: Params | None = None
    activation: str | None = None
    token: int = field(default_factory=lambda: next(_tokens))

    def renewed(self, **changes: object) -> Flow:
        """The flow of a new tensor with the same facts, except for `changes`."""
        return replace(self, token=next(_tokens), **changes)  # type: ignore[arg-type]

    def among(self, tokens: Mapping[int, int]) -> Flow:
        """The same tensor, remembering of its bases only those with a positive count in `tokens`."""
        kept = {token: base for token, base in self.bases.items() if tokens.get(token, 0) > 0}
        return self if len(kept) == len(self.bases) else replace(self, bases=kept)

    def reachable(self, shape: Sequence[int]) -> dict[int, Base]:
        """Every tensor this one, of the given shape, equals under some zeroing, itself included."""
        return {**self.bases, self.token: Base(frozenset(), in_place(shape))}


def rearranged(source: Flow, shape: Sequence[int], move: Callable[[Layout], Layout | None]) -> Flow:
    """The flow of a tensor with the elements of `source`, of the given shape, in places that `move` tells."""
    moved = ((token, base.params, move(base.layout)) for token, base in source.reachable(shape).items())
    return source.renewed(bases={token: Base(params, layout) for token, params, layout in moved if layout is not None})


def added(left: Flow, right: Flow, shape: Sequence[int]) -> Flow:
    """The flow of `left + right`, both activations of the same shape."""
    bases: dict[int, Base] = {}
    for stream, branch in ((left, right), (right, left)):
        if branch.zeroed_by is not None:
            for token, base in stream.reachable(shape).items():
                bases.setdefault(token, Base(base.params | branch.zeroed_by, base.layout))
    if left.zeroed_by is None or right.zeroed_by is None:
        return Flow(bases=bases)
    return Flow(bases=bases, zeroed_by=left.zeroed_by | right.zeroed_by)


def activated(source: Flow, shape: Sequence[int], name: str, activations: Mapping[int, str]) -> Flow:
    """The flow of an idempotent activation such as relu; `activations` says what other tensors went through."""
    kept = {token: base for token, base in source.reachable(shape).items() if activations.get(token) == name}
    return Flow(bases=kept, zeroed_by=source.zeroed_by, activation=name)
