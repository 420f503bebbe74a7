"""What to say where a target is refused: sizes nearby at which heads stay whole, and larger models by their names."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from growtool.library.values import as_lists, leaves
from growtool.plan.target import Target
from growtool.recipe.target.size_arguments import SizeArguments, find_size_arguments
from growtool.recipe.traced_model import TracedModel
from growtool.trace import Trace, channels_of

_PROPOSED = 2  # sizes at most
_NAMED = 4  # architectures at most


def head_advice(
    target: Target, source: TracedModel, grown: Trace | None, accepted: Callable[[Target], bool]
) -> str | None:
    """Return a sentence on how the head size would change, with the nearest arguments that keep it.

    None if heads are not cut in two, if the plan gives no arguments, or if none nearby would do.

    Args:
        target: the plan's.
        source: the model that grows.
        grown: the target's trace; None if its library refuses to build it.
        accepted: returns whether the plan can be carried out with another target.
    """
    before = _head_sizes(source.trace)
    after = None if grown is None else _head_sizes(grown)
    if target.model is not None or not target.model_args or not before or not _breaks(before, after):
        return None
    size_arguments = find_size_arguments(source, ["width"])
    asked = [
        target.model_args[name] / max(part for part in leaves(value) if not isinstance(part, str))
        for name, value in size_arguments.width.items()
        if isinstance(target.model_args.get(name), int)
    ]
    if not asked:
        return None
    distance = {near: abs(near - factor) for factor in asked for near in _factors(factor, size_arguments)}
    proposed: list[str] = []
    for factor in sorted(distance, key=lambda factor: (distance[factor], factor)):
        args = {name: as_lists(size_arguments.scaled(name, float(factor))) for name in size_arguments.width}
        if len(proposed) < _PROPOSED and accepted(Target(model_args={**target.model_args, **args})):
            proposed.append(_told(args))
    if not proposed:
        return None
    change = f"would become {_sizes(after)}" if after else "does not divide this width"
    return f"head size {_sizes(before)} {change}; take {', or '.join(proposed)}"


def _head_sizes(trace: Trace) -> tuple[int, ...]:
    """Return the different sizes of heads in a model, ascending."""
    sizes = {group.size for group, channels in channels_of(trace).items() if channels.what == "head size"}
    return tuple(sorted(sizes))


def _breaks(before: tuple[int, ...], after: tuple[int, ...] | None) -> bool:
    """Return whether some head size becomes anything but a whole multiple of what it is in the source."""
    return after is None or len(before) != len(after) or any(new % old for old, new in zip(before, after, strict=True))


def _factors(asked: float, size_arguments: SizeArguments) -> set[Fraction]:
    """Return the nearest factors above 1 on either side: fractions at which every count stays whole, and integers."""
    steps = {math.gcd(*(count for _, count in size_arguments.counts(size_arguments.width))), 1}
    nearest = {Fraction(rounded(asked * step), step) for step in steps for rounded in (math.floor, math.ceil)}
    return {factor for factor in nearest if factor > 1}


def _told(args: Mapping[str, Any]) -> str:
    """Return arguments in words: `embed_dim 96 with num_heads 3`."""
    first, *rest = (f"{name} {value}" for name, value in args.items())
    return f"{first} with {' and '.join(rest)}" if rest else first


def _sizes(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))


def sibling_advice(source: TracedModel, accepted: Callable[[Target], bool]) -> str:
    """Return what to say where no argument makes a model wider: which larger models the plan reaches by their names.

    Args:
        source: the model that grows.
        accepted: returns whether the plan can be carried out with another target.
    """
    library = source.library
    larger = library.larger(source.spec, source.model)
    reached = list(itertools.islice((name for name in larger if accepted(Target(model=name))), _NAMED))
    if not reached:
        return f"target: {library.name} registers no larger model of its family that this plan grows it into either"
    return f"target: name a larger model of the family, `target: {{model: NAME}}`: {', '.join(reached)}"
