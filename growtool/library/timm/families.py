"""Families of timm's registry, each of one model file, and the larger models in a checkpoint's family."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from growtool.errors import CheckpointError
from growtool.library.building import Shapes, shapes_of
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import base_architecture, home_module

_INHERITED = ("num_classes", "in_chans", "global_pool")
TRIED = 16  # models of a family that are built to look at their shapes


def families() -> dict[str, tuple[str, ...]]:
    """Return the models of each family in timm's registry, also of users' files, without `growtool_open`."""
    import timm

    registered = {name: tuple(timm.list_models(module=name)) for name in timm.list_modules()}
    return {name: models for name, models in registered.items() if not _is_growtools(models)}


def _is_growtools(models: tuple[str, ...]) -> bool:
    """Return whether a family is that of `growtool_open`; all models of a family stand in one file."""
    from timm.models import model_entrypoint

    return any(model_entrypoint(name).__module__.startswith("growtool.") for name in models[:1])


def inherited(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of a spec that a model of another name keeps."""
    return {key: spec.model_args[key] for key in _INHERITED if key in spec.model_args}


def siblings(spec: ModelSpec) -> list[str]:
    """Return the names of the other models in the model file of a spec."""
    import timm

    base = base_architecture(spec)
    family = timm.list_models(module=home_module(ModelSpec(base)).rsplit(".", 1)[-1])
    return [name for name in family if name != base]


def larger_siblings(
    spec: ModelSpec, model: nn.Module, candidates: Iterable[str], build: Callable[[ModelSpec], nn.Module]
) -> list[str]:
    """Return the candidates with the same parameters, none smaller and at least one larger, nearest first.

    Only the `TRIED` candidates whose names are most like the source's are built; all of a large family take minutes.
    """
    shapes = shapes_of(model)
    larger = []
    for name in difflib.get_close_matches(base_architecture(spec), list(candidates), n=TRIED, cutoff=0.0):
        try:
            others = shapes_of(build(ModelSpec(name, inherited(spec))))
        except CheckpointError:
            continue
        if others.keys() == shapes.keys() and others != shapes and _none_smaller(shapes, others):
            larger.append((sum(map(sum, others.values())), name))
    return [name for _, name in sorted(larger)]


def _none_smaller(shapes: Shapes, others: Shapes) -> bool:
    """Return whether no dimension of the other tensors is smaller."""
    return all(
        len(shape) == len(others[name]) and all(a <= b for a, b in zip(shape, others[name], strict=True))
        for name, shape in shapes.items()
    )
