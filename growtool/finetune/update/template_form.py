"""Training a checkpoint in template form: what trains, and what it cannot be combined with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from growtool.checkpoint import Checkpoint, Form, Layout, coefficients_of
from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.templates.training import kinds_of_parameters

Slices = tuple[tuple[tuple[int, int], ...], ...]
"""For each dimension the ranges [start, stop) of its new positions; an element is new where any of its positions is."""


def refuse_what_templates_cannot(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise for options that a checkpoint in template form has no place for.

    Raises:
        PlanError: one problem for each.
    """
    if checkpoint.form is None:
        return
    problems = []
    if config.engine == "fsdp":
        problems.append("--engine fsdp: shards each layer's parameters, and layers here share theirs; use ddp")
    if config.lora_rank:
        problems.append("--lora-rank: adapters add to a weight that is stored, and here it is computed")
    if config.num_classes is not None:
        problems.append("--num-classes: a head may be among the templates")
    if config.lr_factors:
        problems.append("--lr-factors: they are of weights, and what trains here are coefficients and templates")
    if problems:
        remedy = f"or train the dense checkpoint that `growtool export {checkpoint.name}` writes"
        raise PlanError([f"{problem}; {remedy}" for problem in problems])


def names_of_kind(kind: str, checkpoint: Checkpoint) -> frozenset[str]:
    """The parameters that are `coefficients` or `templates`.

    Raises:
        PlanError: the checkpoint is dense.
    """
    if checkpoint.form is None:
        raise PlanError(
            f"--train {kind}: {checkpoint.name} is dense and has no {kind}; use --train all, or write its template "
            "form with `growtool decompose`"
        )
    return kinds_of_parameters(checkpoint.form)[kind]


def as_stored(
    names: Iterable[str], slices: Mapping[str, Slices], form: Form | None
) -> tuple[frozenset[str], dict[str, Slices]]:
    """What tensors of the model, and parts of them, are for a checkpoint that stores some of them as coefficients.

    A templated tensor that is new trains in its coefficients; one that is new in part, in the coefficients of the
    blocks that are new as wholes. Templates are shared with what is old, and stay.
    """
    templated = form.tensors if form else {}
    parts: dict[str, Slices] = {name: ranges for name, ranges in slices.items() if name not in templated}
    for name in slices.keys() & templated.keys():
        layouts = (templated[name].rows, templated[name].columns)
        blocks = tuple(tuple(_new_blocks(layout, new)) for layout, new in zip(layouts, slices[name], strict=False))
        if any(blocks):
            parts[coefficients_of(name)] = (*blocks, ())
    return frozenset(coefficients_of(name) if name in templated else name for name in names), parts


def _new_blocks(layout: Layout, ranges: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """The blocks all of whose positions are new, each as a range of its own."""
    new = torch.zeros(layout.size, dtype=torch.bool)
    for start, stop in ranges:
        new[start:stop] = True
    block: Tensor = layout.places()[0]
    for number in range(layout.blocks):
        if bool(new[block == number].all()):
            yield number, number + 1
