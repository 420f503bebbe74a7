"""Larger architectures of the source's library that it can grow into by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import nn

from growtool.library import ModelSpec, library_of
from growtool.plan.target import Target

_NAMED = 4  # architectures at most


def sibling_advice(spec: ModelSpec, model: nn.Module, accepted: Callable[[Target], bool]) -> str:
    """Return what to say where no argument makes a model wider: which larger models the plan reaches by their names.

    Args:
        spec: the source.
        model: its skeleton.
        accepted: returns whether the plan can be carried out with another target.
    """
    library = library_of(spec)
    larger = library.larger(spec, model)
    reached = list(itertools.islice((name for name in larger if accepted(Target(model=name))), _NAMED))
    if not reached:
        return f"target: {library.name} registers no larger model of its family that this plan grows it into either"
    return f"target: name a larger model of the family, `target: {{model: NAME}}`: {', '.join(reached)}"
