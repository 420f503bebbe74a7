"""Training a checkpoint in template form: which parameters train, and which options are impossible."""

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
    """Check that no option is impossible for a checkpoint in template form; a dense one passes.

    Raises:
        PlanError: there are such options; one problem for each.
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
    """Return the names of the parameters of one kind, `coefficients` or `templates`.

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
    """Translate new tensors, and new positions of tensors, into those that the checkpoint stores.

    Of a templated tensor the coefficients train: all of them if the tensor is new, and if it is new in part, those of
    the blocks that consist of new positions alone. Templates do not train, as old tensors share them.

    Args:
        names: the new tensors of the dense model.
        slices: the new positions of others.
        form: the template form; None for a dense checkpoint, whose names and slices are returned as they are.
    """
    templated = form.tensors if form else {}
    stored_slices: dict[str, Slices] = {name: ranges for name, ranges in slices.items() if name not in templated}
    for name in slices.keys() & templated.keys():
        layouts = (templated[name].rows, templated[name].columns)
        # Not strict: a weight has further dimensions (height, width), which no blocks divide.
        blocks = tuple(tuple(_new_blocks(layout, new)) for layout, new in zip(layouts, slices[name], strict=False))
        if any(blocks):
            stored_slices[coefficients_of(name)] = (*blocks, ())  # [k_out, k_in, T]
    return frozenset(coefficients_of(name) if name in templated else name for name in names), stored_slices


def _new_blocks(layout: Layout, ranges: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
    """Yield the blocks all of whose positions are new, each as a range of its own."""
    is_new = torch.zeros(layout.size, dtype=torch.bool)
    for start, stop in ranges:
        is_new[start:stop] = True
    block_of: Tensor = layout.places()[0]
    for block in range(layout.blocks):
        if bool(is_new[block_of == block].all()):
            yield block, block + 1
