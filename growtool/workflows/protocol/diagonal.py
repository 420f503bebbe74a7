"""Growing two members onto the diagonal of a larger model (MixtureGrowth, arXiv 2311.04251, section 3).

A weight whose rows grow k-fold and whose columns grow j-fold is a k x j grid of blocks. Member 0 is the first block and
member 1 the last. Each other block is a new combination of the templates of one member; the members take turns, row by
row. If only rows grow (the stem, norms, biases), member 0 comes first and member 1 last. If only columns grow (the
classifier), both members are read, so that the logits are the sum of the members' logits. From k = 3 on, the part
between the members starts as its library initialises it. If a width is no multiple, the last block is cut short, in
weights and norms alike.

Axes: k, j the grid; T templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.expansion import circular
from growtool.checkpoint import Checkpoint, Form, Layout, ModelSpec, Templated, coefficients_of, open_checkpoint
from growtool.errors import PlanError, format_names
from growtool.library import library_of
from growtool.operators.base import generator_for
from growtool.plan.width import Coefficients
from growtool.recipe.matching import Matching, match
from growtool.recipe.traced_model import TracedModel
from growtool.templates.coefficients import new_vectors
from growtool.templates.convert import write_tensors
from growtool.templates.reference import member_places
from growtool.trace import GroupPair
from growtool.workflows.protocol.member import bank_of

Maps = Mapping[str, tuple[AxisMap, ...]]


@dataclass(frozen=True, slots=True)
class NewVectors:
    """How new coefficient vectors are drawn; `gain` is their size relative to the member's own vector."""

    choice: Coefficients
    gain: float
    seed: int


def growth_maps(member: ModelSpec, grown: ModelSpec) -> tuple[Maps, TracedModel]:
    """Return how each dimension of each tensor grows from a member to the grown model, and the traced grown model.

    Raises:
        PlanError: the member is not narrower than the model in every layer.
    """
    source, target = TracedModel.of(member, where="member"), TracedModel.of(grown, where="model")
    matching = match(source, target, None)
    alone = [name for bridge in matching.bridges for name in bridge.tensors]
    if alone:
        raise PlanError(
            f"member_args: {format_names(alone)}: in the model alone, and both members would lack "
            "them; choose arguments with which the members have them, too"
        )
    expansions = {growth: circular(*growth.sizes) for growth, _ in matching.carried()}
    if all(expansion.is_identity for expansion in expansions.values()):
        raise PlanError("member_args: the member is as wide as the model, expected a narrower one")
    maps = {
        name: tuple(axis_map(axis, expansions, _summed(matching, name, dim)) for dim, axis in enumerate(axes))
        for name, axes in matching.paired.items()
    }
    alike = [
        name
        for name, parameter in target.model.named_parameters()
        if parameter.numel() and all(axis.is_identity for axis in maps[name]) and not _sums(name, maps)
    ]
    if alike:
        raise PlanError(
            f"member_args: {format_names(alike)}: as large in the member as in the model, and two members cannot "
            "share it; add the arguments that make it narrower, too (stem_width of a ResNet, say)"
        )
    return maps, target


def _summed(matching: Matching, name: str, dim: int) -> frozenset[GroupPair]:
    consumers = matching.target.trace.consumers
    return frozenset(g for g in matching.paired[name][dim].growths() if (g.target, name, dim) in consumers)


def two_sided(maps: Maps) -> frozenset[str]:
    """Return the tensors whose rows and columns both grow."""
    return frozenset(
        name for name, axes in maps.items() if len(axes) > 1 and not any(axis.is_identity for axis in axes[:2])
    )


def write_grown(out: Path, grown: ModelSpec, members: tuple[Path, Path], new: NewVectors) -> None:
    """Write the grown model in template form; `members` are the folders of member 0 and member 1.

    Raises:
        PlanError: the members do not fit the model.
    """
    first, last = (open_checkpoint(folder) for folder in members)
    assert first.form is not None and last.form is not None, "members are in template form"
    maps, target = growth_maps(first.spec, grown)
    fresh = library_of(grown).initialised(grown, new.seed).state_dict()
    tensors: dict[str, Tensor] = {}
    templated: dict[str, Templated] = {}
    for name, value in target.model.state_dict().items():
        axes = maps[name]
        if name in first.form.tensors:
            bank = f"banks.{bank_of(name)}.templates"
            tensors[bank] = torch.cat([_templates(member, name) for member in (first, last)])
            tensors[coefficients_of(name)] = grid_of(
                _vector(first, name), _vector(last, name), axes[0].replicas, axes[1].replicas, new, name
            )
            rows, columns = (
                Layout.of(zip(axis.replica.tolist(), axis.index.tolist(), strict=True)) for axis in axes[:2]
            )
            templated[name] = Templated(bank_of(name), rows, columns)
        elif not value.is_floating_point():
            tensors[name] = first.read(name)
        else:
            tensors[name] = beside(first.read(name), last.read(name), fresh[name], axes, sums=_sums(name, maps))
    form = Form(dict.fromkeys((t.bank for t in templated.values()), "trained"), templated)
    write_tensors(out, grown, target.model, tensors, form)


def grid_of(first_T: Tensor, last_T: Tensor, rows: int, columns: int, new: NewVectors, name: str) -> Tensor:
    """Return the coefficients of a grown layer over the templates of both members, [rows, columns, T of both].

    New blocks use the two sets of templates in turn, as published: block 2 the first, block 3 the second. `orthogonal`
    vectors lie in the null space of the member's own vector within its set. If there are more blocks than dimensions,
    more vectors are drawn. A set of one template has no such vector, so its blocks are zero. (The public reference
    leaves the first new block at its random start.) Signs make the largest entry positive.
    """
    own = (first_T.double(), last_T.double())
    C = torch.zeros(rows, columns, len(first_T) + len(last_T), dtype=torch.float64)
    C[0, 0, : len(first_T)] = own[0]
    C[-1, -1, len(first_T) :] = own[1]
    places = member_places(rows, columns)[2:]
    generator = generator_for(new.seed, name)
    for number, part in ((0, slice(None, len(first_T))), (1, slice(len(first_T), None))):
        blocks = places[number::2]
        beside_own = own[number].expand(len(blocks), -1)
        vectors = new_vectors(new.choice, beside_own, own[number][None], generator)
        size = 1.0 if new.choice == "copy" else float(own[number].norm())
        for (i, j), vector in zip(blocks, vectors, strict=True):
            C[i, j, part] = new.gain * size * vector
    return C.to(first_T.dtype)


def beside(first: Tensor, last: Tensor, fresh: Tensor, axes: tuple[AxisMap, ...], *, sums: bool) -> Tensor:
    """Return a dense tensor of the grown model: member 0 first, member 1 last, `fresh` between them.

    Args:
        first, last: the tensors of the members.
        fresh: initial values, of the grown shape.
        axes: how each dimension grows.
        sums: whether a tensor that does not grow is the sum of the members' tensors; if not, both have the same one.
    """
    growing = [dim for dim, axis in enumerate(axes) if not axis.is_identity]
    if not growing:
        return first + last if sums else first
    grown = fresh.clone().to(first.dtype)
    if len(growing) > 1 or axes[growing[0]].consumes:
        grown.zero_()
    for member, replicas in ((first, [0] * len(axes)), (last, [axis.replicas - 1 for axis in axes])):
        positions = [
            (axis.replica == replica).nonzero().flatten() for axis, replica in zip(axes, replicas, strict=True)
        ]
        origins = [axis.index[where] for axis, where in zip(axes, positions, strict=True)]
        grown[torch.meshgrid(*positions, indexing="ij")] = member[torch.meshgrid(*origins, indexing="ij")]
    return grown


def _sums(name: str, maps: Maps) -> bool:
    """Return whether a vector is the bias of a layer that reads both members."""
    weight = maps.get(f"{name.rpartition('.')[0]}.weight", ())
    return name.endswith(".bias") and len(weight) > 1 and weight[0].is_identity and not weight[1].is_identity


def _templates(member: Checkpoint, name: str) -> Tensor:
    assert member.form is not None
    (part,) = member.form.parts(member.form.tensors[name].bank)
    return member.read_stored(part)


def _vector(member: Checkpoint, name: str) -> Tensor:
    return member.read_stored(coefficients_of(name))[0, 0]
