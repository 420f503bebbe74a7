"""Which library a model belongs to: timm is built in, others register themselves, from a plugin for one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError, PlanError
from growtool.library.base import Library
from growtool.library.inputs import Inputs
from growtool.library.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

_registered: dict[str, Library] = {}


def register(library: Library) -> None:
    """Make a library known; it is asked before those that were registered earlier.

    Raises:
        PlanError: there is one of this name already.
    """
    if library.name in {own.name for own in libraries()}:
        raise PlanError(f"library {library.name!r}: found one of this name, expected another; rename it")
    _registered[library.name] = library


def libraries() -> tuple[Library, ...]:
    """Every library in the order in which they are asked, the one that takes what is left at the end."""
    return (*reversed(_registered.values()), transformers(), built_in())


def recognised(config: Mapping[str, Any]) -> Library:
    """The library that a `config.json` is of."""
    return next(library for library in libraries() if library.recognises(config))


def spec_from(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """The model that a `config.json` describes.

    Raises:
        CheckpointError: what is wrong in it; names `where`.
    """
    return recognised(config).spec(config, where=where)


def spec_named(architecture: str, model_args: Mapping[str, Any] | None = None, **settings: Any) -> ModelSpec:
    """A model that is told by its name and arguments, in the library that knows it."""
    library = recognised({"architecture": architecture})
    return ModelSpec(architecture, dict(model_args or {}), settings, {}, library.name)


def library_of(spec: ModelSpec) -> Library:
    """The library that builds a model.

    Raises:
        CheckpointError: it is not registered.
    """
    found = next((library for library in libraries() if library.name == spec.library), None)
    if found is None:
        raise CheckpointError(
            f"{spec.architecture}: found a model of the library {spec.library!r}, which is not registered; name the "
            "file that registers it with --plugin"
        )
    return found


def build(spec: ModelSpec, *, where: str = "model") -> nn.Module:
    """The model of `spec` in eval mode, its parameters on meta, its buffers on CPU.

    Raises:
        CheckpointError: its library does not know the architecture, or its constructor refuses the arguments.
    """
    return library_of(spec).build(spec, where=where)


def meta_inputs(spec: ModelSpec, model: nn.Module, count: int) -> Inputs:
    """So many inputs of a model without their values, on the meta device, in the type of its parameters."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return library_of(spec).inputs(model, count, seed=0).to(next(types, None), "meta")


def runs(spec: ModelSpec, model: nn.Module) -> bool:
    """Whether a model without weights takes the inputs it was built for."""
    import copy

    import torch

    replica = copy.deepcopy(model).to("meta").eval()
    try:
        with torch.no_grad():
            library_of(spec).run(replica, meta_inputs(spec, model, 2))
    except Exception:  # whatever a forward pass trips over when its layers do not fit together
        return False
    return True


@cache
def transformers() -> Library:
    """The library of checkpoints that name the type of a model; its package is asked for once there is one."""
    from growtool.library.transformers import Transformers

    return Transformers()


@cache
def built_in() -> Library:
    """The library that takes what no other recognises."""
    from growtool.library.timm import Timm

    return Timm()
