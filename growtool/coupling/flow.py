"""What would remain of a tensor if some parameters were zero: how residual branches are found.

Two facts travel with every activation. `zeroed_by` names parameters that turn it into zeros when they are zero (the
last affine layer it came through). `bases` says which earlier tensors it equals once certain parameters are zero: after
`x + gamma * f(x)` it equals x if gamma is zero. A module whose output equals its input on those terms is a residual
block, and the parameters are its exits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_tokens = itertools.count()

Params = frozenset[str]


@dataclass(frozen=True, slots=True)
class Flow:
    """Attributes:

    bases: token of an earlier tensor -> parameters that must be zero for this tensor to equal it.
    zeroed_by: parameters that make this tensor zero, or None.
    activation: the idempotent activation this tensor went through last (a second one would change nothing).
    token: the identity of this very tensor.
    """

    bases: Mapping[int, Params] = field(default_factory=dict)
    zeroed_by: Params | None = None
    activation: str | None = None
    token: int = field(default_factory=lambda: next(_tokens))

    def renewed(self, **changes: object) -> Flow:
        """The flow of a new tensor with the same facts, except for `changes`."""
        return replace(self, token=next(_tokens), **changes)  # type: ignore[arg-type]

    def among(self, tokens: Mapping[int, int]) -> Flow:
        """The same tensor, remembering of its bases only those with a positive count in `tokens`."""
        kept = {token: params for token, params in self.bases.items() if tokens.get(token, 0) > 0}
        return self if len(kept) == len(self.bases) else replace(self, bases=kept)

    def reachable(self) -> dict[int, Params]:
        """Every tensor this one equals under some zeroing, itself included."""
        return {**self.bases, self.token: frozenset()}


def added(left: Flow, right: Flow) -> Flow:
    """The flow of `left + right`, both activations of the same shape."""
    bases: dict[int, Params] = {}
    for stream, branch in ((left, right), (right, left)):
        if branch.zeroed_by is not None:
            for token, params in stream.reachable().items():
                bases.setdefault(token, params | branch.zeroed_by)
    if left.zeroed_by is None or right.zeroed_by is None:
        return Flow(bases=bases)
    return Flow(bases=bases, zeroed_by=left.zeroed_by | right.zeroed_by)


def activated(source: Flow, name: str, activations: Mapping[int, str]) -> Flow:
    """The flow of an idempotent activation such as relu; `activations` says what other tensors went through."""
    kept = {token: params for token, params in source.reachable().items() if activations.get(token) == name}
    return Flow(bases=kept, zeroed_by=source.zeroed_by, activation=name)
