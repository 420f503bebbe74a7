"""Runs of modules: what each received and returned, and on what terms an output equals an input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from growtool.trace.flow.flow import Flow, Params


class Same(NamedTuple):
    """The terms on which an output of a module equals one of its inputs; they hold together.

    Attributes:
        number: number of the input tensor.
        params: parameters that have to be zero.
        identity_layers: parameters and buffers of layers that have to compute the identity.
        unit_affine: gains that have to be one and shifts that have to be zero: of norms inside the module, and of the
            norm that wrote the input.
    """

    number: int
    params: Params
    identity_layers: Params
    unit_affine: Params = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """One tensor that a module returned, compared with the inputs of the module.

    Attributes:
        number: number of the tensor.
        same: the terms on which it equals an input; None if it never does.
        zero: parameters that make it zero if they are zero; None if none do.
        lost: the operation after which it does not equal an input on any terms; None if there is none.
    """

    number: int
    same: Same | None
    zero: Params | None
    lost: str | None


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """One run of a module.

    Attributes:
        path: path of the module.
        first, end: the range of its operations among the raw steps of the pass, `end` excluded.
        ins: numbers of the tensors that it received.
        outs: the tensors that it returned.
        lone: whether it returned one tensor as such, and no tuple.
    """

    path: str
    first: int
    end: int
    ins: tuple[int, ...]
    outs: tuple[Outcome, ...]
    lone: bool


def outcome(number: int, flow: Flow, shape: Sequence[int], tokens: Sequence[int], numbers: Sequence[int]) -> Outcome:
    """Return how a tensor that a module returned compares with the inputs of the module.

    Args:
        number, flow, shape: of the tensor.
        tokens: tokens of the inputs' flows, as they were when the module began.
        numbers: numbers of the inputs.
    """
    bases = flow.reachable(shape)
    equal = [
        Same(n, bases[token].params, bases[token].identity_layers, bases[token].unit_affine)
        for token, n in zip(tokens, numbers, strict=True)
        if token in bases and bases[token].is_all(shape)
    ]
    # zeroing parameters asks less of a model than changing whole layers or norms
    same = min(equal, key=lambda terms: (len(terms.identity_layers), len(terms.unit_affine)), default=None)
    lost = next((flow.lost[token] for token in tokens if token in flow.lost), None)
    return Outcome(number, same, flow.zeroed_by, lost)


def exits_of(calls: Sequence[ModuleCall]) -> dict[str, Params]:
    """Return the parameters that, set to zero, make a module return its input, for each module with such parameters.

    A module that runs several times has to have the same exits in each run.
    """
    exits: dict[str, Params | None] = {}
    for call in calls:
        same = call.outs[0].same if call.lone and call.outs else None
        params = same.params if same is not None and not same.identity_layers | same.unit_affine else None
        exits[call.path] = params if exits.get(call.path, params) == params else None
    return {path: params for path, params in exits.items() if params}
