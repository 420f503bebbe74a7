"""The libraries that growtool knows, and the one that a model belongs to.

timm and transformers are built in; a plugin may register others.
"""

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
    """Add a library; it is asked before those that were registered earlier.

    Raises:
        PlanError: there is a library of this name already.
    """
    if library.name in {known.name for known in libraries()}:
        raise PlanError(f"library {library.name!r}: found one of this name, expected another; rename it")
    _registered[library.name] = library


def libraries() -> tuple[Library, ...]:
    """Return all libraries in the order in which they are asked; the last one takes every configuration."""
    return (*reversed(_registered.values()), transformers(), built_in())


def recognised(config: Mapping[str, Any]) -> Library:
    """Return the library that the content of a `config.json` is of."""
    return next(library for library in libraries() if library.recognises(config))


def spec_from(config: Mapping[str, Any], *, where: str) -> ModelSpec:
    """Return the spec of the model that a `config.json` describes.

    Raises:
        CheckpointError: the content is wrong; names `where`.
    """
    return recognised(config).spec(config, where=where)


def spec_named(architecture: str, model_args: Mapping[str, Any] | None = None, **settings: Any) -> ModelSpec:
    """Return the spec of an architecture of this name, in the library that recognises it."""
    library = recognised({"architecture": architecture})
    return ModelSpec(architecture, dict(model_args or {}), settings, {}, library.name)


def library_of(spec: ModelSpec) -> Library:
    """Return the library that builds a model.

    Raises:
        CheckpointError: no library of this name is registered.
    """
    library = next((library for library in libraries() if library.name == spec.library), None)
    if library is None:
        raise CheckpointError(
            f"{spec.architecture}: found a model of the library {spec.library!r}, which is not registered; name the "
            "file that registers it with --plugin"
        )
    return library


def build(spec: ModelSpec, *, where: str = "model") -> nn.Module:
    """Return the model of `spec` in eval mode, with its parameters on meta and its buffers on CPU.

    Raises:
        CheckpointError: its library does not know the architecture, or its constructor refuses the arguments.
    """
    return library_of(spec).build(spec, where=where)


def meta_inputs(spec: ModelSpec, model: nn.Module, count: int) -> Inputs:
    """Return a batch of `count` inputs on meta, floating-point ones in the type of the model's parameters."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return library_of(spec).inputs(model, count, seed=0).to(next(types, None), "meta")


def runs(spec: ModelSpec, model: nn.Module) -> bool:
    """Return whether the forward pass of a model runs through on meta, with the inputs that it was built for."""
    import copy

    import torch

    replica = copy.deepcopy(model).to("meta").eval()
    try:
        with torch.no_grad():
            library_of(spec).run(replica, meta_inputs(spec, model, 2))
    except Exception:  # a forward pass may raise anything where layers do not fit together
        return False
    return True


@cache
def transformers() -> Library:
    """Return the library of transformers; the package itself is imported only once there is a checkpoint of it."""
    from growtool.library.transformers import Transformers

    return Transformers()


@cache
def built_in() -> Library:
    """Return timm's library, which takes every configuration that no other library recognises."""
    from growtool.library.timm import Timm

    return Timm()
