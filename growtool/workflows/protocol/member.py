"""A member before training: a small model in template form, whose layers each have their own templates."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from growtool.algebra.layers import deviation
from growtool.checkpoint import (
    Form,
    Layout,
    ModelSpec,
    Templated,
    build,
    coefficients_of,
    infos_of,
    open_checkpoint,
)
from growtool.library import library_of
from growtool.operators.base import generator_for
from growtool.recipe.traced_model import TracedModel
from growtool.templates.convert import write_tensors
from growtool.templates.grouping import templatable


def write_member(out: Path, spec: ModelSpec, growing: frozenset[str], *, templates: int, seed: int) -> None:
    """Write a member with fresh weights.

    Each template is a weight as the library initialises the layer, so it has the variance of the library. The
    coefficients are a random unit vector, so the weight has this variance, too. (The public reference draws all
    templates of a layer as one tensor of five dimensions, which makes them too small by the square root of its rows.)

    Args:
        out: the folder to write.
        spec: the member.
        growing: the tensors whose rows and columns both grow; these are templated.
        templates: the number of templates for each layer.
        seed: of all random numbers.
    """
    traced = TracedModel.of(spec, where="member")
    drawn = [library_of(spec).initialised(spec, seed * 1000 + number) for number in range(templates)]
    state = drawn[0].state_dict()
    names = [name for name in templatable(traced.model, traced.trace, infos_of(state)) if name in growing]
    tensors: dict[str, Tensor] = {name: value for name, value in state.items() if name not in names}
    for name in names:
        vector = torch.randn(templates, generator=generator_for(seed, name))
        tensors[coefficients_of(name)] = (vector / vector.norm()).reshape(1, 1, -1)
        tensors[f"banks.{bank_of(name)}.templates"] = torch.stack([model.state_dict()[name] for model in drawn])
    form = Form(
        {bank_of(name): "trained" for name in names},
        {
            name: Templated(bank_of(name), Layout.whole(state[name].shape[0]), Layout.whole(state[name].shape[1]))
            for name in names
        },
    )
    write_tensors(out, spec, traced.model, tensors, form)


def write_copy(out: Path, member: Path, *, noise: float, seed: int) -> None:
    """Write a copy of a trained member, with noise on its templates; its deviation is relative to that of each bank."""
    source = open_checkpoint(member)
    assert source.form is not None, "a member is in template form"
    tensors = {name: source.read_stored(name) for name in source.stored}
    for bank in source.form.banks:
        for part in source.form.parts(bank):
            drawn = torch.randn(tensors[part].shape, generator=generator_for(seed, part))
            tensors[part] = tensors[part] + noise * deviation(tensors[part]) * drawn
    write_tensors(out, source.spec, build(source.spec, where="member"), tensors, source.form)


def bank_of(name: str) -> str:
    """Return the name of the bank of a layer that shares its templates with no other layer."""
    return name.replace(".", "_")
