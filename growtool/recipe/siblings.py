"""Larger models of timm's registry that a checkpoint can grow into by name."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from growtool.checkpoint import ModelSpec, build
from growtool.checkpoint.reach import base_architecture, home_module
from growtool.errors import CheckpointError
from growtool.plan.target import Target

INHERITED = ("num_classes", "in_chans", "global_pool")  # what a model of another name keeps of the source
TRIED = 16
_NAMED = 4

Shapes = Mapping[str, tuple[int, ...]]


def sibling_advice(spec: ModelSpec, model: nn.Module, accepted: Callable[[Target], bool]) -> str:
    """Which larger models the plan reaches by their names: what to say where no argument makes this one wider.

    Args:
        spec: the source.
        model: its skeleton.
        accepted: whether the plan can be carried out with another target.
    """
    import timm

    base = base_architecture(spec)
    family = timm.list_models(module=home_module(ModelSpec(base)).rsplit(".", 1)[-1])
    larger = larger_siblings(spec, model, [name for name in family if name != base])
    reached = list(itertools.islice((name for name in larger if accepted(Target(model=name))), _NAMED))
    if not reached:
        return "target: timm registers no larger model of its family that this plan grows it into either"
    return f"target: name a larger model of the family, `target: {{model: NAME}}`: {', '.join(reached)}"


def larger_siblings(spec: ModelSpec, model: nn.Module, candidates: Iterable[str]) -> list[str]:
    """Registered models with the same parameters, none of them smaller and one larger, nearest first.

    Looked at are the candidates whose names are nearest to the source's; building all of a large family takes minutes.
    """
    own = shapes_of(model)
    found = []
    for name in difflib.get_close_matches(base_architecture(spec), list(candidates), n=TRIED, cutoff=0.0):
        kept = {key: spec.model_args[key] for key in INHERITED if key in spec.model_args}
        try:
            shapes = shapes_of(build(ModelSpec(name, kept)))
        except CheckpointError:
            continue
        if shapes.keys() == own.keys() and shapes != own and _none_smaller(own, shapes):
            found.append((sum(map(sum, shapes.values())), name))
    return [name for _, name in sorted(found)]


def _none_smaller(own: Shapes, other: Shapes) -> bool:
    return all(
        len(shape) == len(other[name]) and all(a <= b for a, b in zip(shape, other[name], strict=True))
        for name, shape in own.items()
    )


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every stored tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
