"""What each run of a module received and returned, and on what terms it returns what it received."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from growtool.trace.flow.flow import Flow, Params


class Same(NamedTuple):
    """An output equals an input.

    Attributes:
        number: of the input.
        params: if these are zero,
        passing: and these are parameters and buffers of layers that pass on what they receive,
        plain: and these are gains of one and shifts of zero, of norms within and of the one that wrote the input.
    """

    number: int
    params: Params
    passing: Params
    plain: Params = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tensor that a module returned, against what it received.

    Attributes:
        number: of a tensor that a module returned.
        same: on what terms it equals an input of the module; None: on none.
        zero: parameters that make it zero if they are zero; None: none do.
        lost: the operation after which it equals no input any more.
    """

    number: int
    same: Same | None
    zero: Params | None
    lost: str | None


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One run of a module.

    Attributes:
        path: of the module.
        first, end: its operations among all in order, `end` excluded.
        ins: numbers of the tensors it received.
        outs: what it returned.
        lone: whether that is one tensor, not a tuple.
    """

    path: str
    first: int
    end: int
    ins: tuple[int, ...]
    outs: tuple[Outcome, ...]
    lone: bool


def outcome(number: int, flow: Flow, shape: Sequence[int], tokens: Sequence[int], numbers: Sequence[int]) -> Outcome:
    """On what terms a returned tensor equals an input.

    Args:
        number: of the tensor.
        flow: its flow.
        shape: its shape.
        tokens: of the inputs, as they were when the module began.
        numbers: of the inputs.
    """
    bases = flow.reachable(shape)
    found = [
        Same(n, bases[token].params, bases[token].passing, bases[token].plain)
        for token, n in zip(tokens, numbers, strict=True)
        if token in bases and bases[token].is_all(shape)
    ]
    same = min(found, key=lambda s: (len(s.passing), len(s.plain)), default=None)
    return Outcome(
        number, same, flow.zeroed_by, next((flow.lost[token] for token in tokens if token in flow.lost), None)
    )


def exits_of(calls: Sequence[ModuleCall]) -> dict[str, Params]:
    """The parameters that, set to zero, make a module return its input, for each module with such parameters."""
    found: dict[str, Params | None] = {}
    for call in calls:
        same = call.outs[0].same if call.lone and call.outs else None
        params = same.params if same is not None and not same.passing | same.plain else None
        found[call.path] = params if found.get(call.path, params) == params else None
    return {path: params for path, params in found.items() if params}
