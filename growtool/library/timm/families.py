"""timm's registry: model files, names, and larger models that a checkpoint can grow into by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from torch import nn

from growtool.errors import CheckpointError
from growtool.library.building import Shapes, shapes_of
from growtool.library.spec import ModelSpec
from growtool.library.timm.reach import base_architecture, home_module

INHERITED = ("num_classes", "in_chans", "global_pool")  # what a model of another name keeps of the source
TRIED = 16


def families() -> dict[str, tuple[str, ...]]:
    """The models of each family in timm's registry, those of users' files included, growtool's own left out."""
    import timm

    found = {name: tuple(timm.list_models(module=name)) for name in timm.list_modules()}
    return {name: models for name, models in found.items() if not _is_own(models)}


def _is_own(models: tuple[str, ...]) -> bool:
    from timm.models import model_entrypoint

    return any(model_entrypoint(name).__module__.startswith("growtool.") for name in models[:1])


def siblings(spec: ModelSpec) -> list[str]:
    """The other models of its model file."""
    import timm

    base = base_architecture(spec)
    family = timm.list_models(module=home_module(ModelSpec(base)).rsplit(".", 1)[-1])
    return [name for name in family if name != base]


def larger_siblings(
    spec: ModelSpec, model: nn.Module, candidates: Iterable[str], build: Callable[[ModelSpec], nn.Module]
) -> list[str]:
    """Registered models with the same parameters, none of them smaller and one larger, nearest first.

    Looked at are the candidates whose names are nearest to the source's; building all of a large family takes minutes.
    """
    own = shapes_of(model)
    found = []
    for name in difflib.get_close_matches(base_architecture(spec), list(candidates), n=TRIED, cutoff=0.0):
        kept = {key: spec.model_args[key] for key in INHERITED if key in spec.model_args}
        try:
            sizes = shapes_of(build(ModelSpec(name, kept)))
        except CheckpointError:
            continue
        if sizes.keys() == own.keys() and sizes != own and _none_smaller(own, sizes):
            found.append((sum(map(sum, sizes.values())), name))
    return [name for _, name in sorted(found)]


def _none_smaller(own: Shapes, other: Shapes) -> bool:
    return all(
        len(shape) == len(other[name]) and all(a <= b for a, b in zip(shape, other[name], strict=True))
        for name, shape in own.items()
    )
