"""Loading a checkpoint as a model in memory that is ready to train."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from growtool.checkpoint import Checkpoint, build, in_type
from growtool.checkpoint.match import matched
from growtool.errors import PlanError
from growtool.finetune.data.seeding import derive_seed
from growtool.library import ModelSpec
from growtool.library.building import shared_names
from growtool.library.timm import with_classes
from growtool.templates.training import even_out_gradients, put_in_form


def load_model(checkpoint: Checkpoint, **model_args: Any) -> nn.Module:
    """Build the timm model of a checkpoint, on the CPU and in eval mode, with the stored weights as float32.

    The weights of a checkpoint in template form are computed from templates and coefficients, which train.

    Args:
        checkpoint: names the model and holds the weights; tensors of integers keep their type.
        model_args: further arguments of its constructor that change no tensor, such as `drop_path_rate`.

    Raises:
        CheckpointError: the weights are not those of the architecture, or it does not take the arguments.
    """
    model = build(checkpoint.spec.with_args(**model_args), where=checkpoint.name)
    checkpoint = matched(checkpoint, model)
    if checkpoint.form is not None:
        put_in_form(model, checkpoint.form, checkpoint.stored)
    state = {}
    for name in checkpoint.stored:
        tensor = checkpoint.read_stored(name)
        wanted = torch.float32 if tensor.is_floating_point() else tensor.dtype
        state[name] = in_type(f"{checkpoint.name}: {name}", tensor, wanted)
    # `assign` puts a tensor of its own under each name, so tied parameters have to be noted before and tied again.
    shared = shared_names(model.state_dict(keep_vars=True))
    model.load_state_dict(state, strict=True, assign=True)
    _share(model, shared)
    if checkpoint.form is not None:
        even_out_gradients(model)
    return model


def _share(model: nn.Module, groups: Iterable[list[str]]) -> None:
    """Give all names of a group the tensor of the first one."""
    for first, *others in groups:
        tensor = model.state_dict(keep_vars=True)[first]
        for name in others:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, tensor)


def replace_head(model: nn.Module, classes: int, seed: int) -> frozenset[str]:
    """Give a timm model a fresh head, drawn from `seed`; the global random state of the CPU stays as it is.

    Returns:
        The names of the head's parameters.

    Raises:
        PlanError: the model has no head that timm can replace.
    """
    reset = getattr(model, "reset_classifier", None)
    if not callable(reset):
        raise PlanError(
            f"--num-classes: {type(model).__name__} has no head that timm can replace; drop the option, or build the "
            f"model with `timm.create_model(..., num_classes={classes})`"
        )
    before = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head"))
        reset(classes)
    return frozenset(name for name, parameter in model.named_parameters() if parameter is not before.get(name))


def spec_for(spec: ModelSpec, classes: int | None) -> ModelSpec:
    """Return the spec with a head for that number of classes, or the same spec for None."""
    return spec if classes is None else with_classes(spec, classes)


def count_classes(model: nn.Module) -> int:
    """Return the number of logits of a timm model."""
    return cast("int", model.num_classes)


def layout(channels_last: bool) -> torch.memory_format:
    """Return the memory format of images and convolutions."""
    return torch.channels_last if channels_last else torch.contiguous_format


def compiled(model: nn.Module, backend: str | None) -> Callable[[Tensor], Tensor]:
    """Return the model compiled by torch.compile with that backend, or the model itself without a backend."""
    return torch.compile(model, backend=backend) if backend else model


def place(model: nn.Module, device: torch.device, *, channels_last: bool) -> nn.Module:
    """Move the model to `device` and into the memory format, in place; return it."""
    return model.to(device).to(memory_format=layout(channels_last))
