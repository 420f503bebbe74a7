"""The recipe: how every target tensor is made, and what the growth promises. Only headers of files were read for it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from growtool.algebra.axis_map import AxisMap
from growtool.algebra.expansion import Expansion, Fill
from growtool.algebra.rewrite import Rewrite
from growtool.checkpoint import Checkpoint, Form, ModelSpec, TensorInfo, dtype_name
from growtool.library import Library
from growtool.operators.depth.cancel_out import Cancellation
from growtool.plan.schema import Plan
from growtool.plan.width import Width
from growtool.prove.promise import Promise
from growtool.recipe.blocks.placing import BlockMap
from growtool.recipe.matching import Matching
from growtool.recipe.widths.changes import WidthChange
from growtool.templates.source import Templates
from growtool.trace import GroupPair

_INITIALISING = threading.Lock()  # one thread builds the model, as torch's global generator fills it


@dataclass(frozen=True, slots=True)
class TensorRecipe:
    """How one target tensor is made.

    Attributes:
        name: in the target.
        source: name of the source tensor that it grows from; None for a layer that only the target has.
        implied: for a layer that only the target has and that passes its input on, what the source would hold if it had
            this layer; else None.
        initial: whether it starts as the library initialises it, in a block that comes from none of the source's.
        info: the target's shape and element type.
        maps: how each dimension grows; empty for a tensor that is copied as it is.
        new: whether it belongs to a block that growth adds.
        zero: whether it becomes zero, since it closes the branch of a new block.
        paired: dimensions along which positions of the grown tensor are copies of each other in pairs, each with int64
            the position that every position is taken from.
        cancelling: where it closes a branch with opposite weights for the two positions of each pair; None: nowhere.
        shared: the first name of a tensor that the model holds under several; random numbers are drawn for it.
        rewrite: what is done to the source tensor before it grows; None: nothing.
        fill: what stands at blank rows.
        remade: whether the width operator makes it although it does not grow.
        next_block: the source's name of the same tensor one block on; None in the last block, and outside of blocks.
        pair_partners: dimensions with blank channels in pairs, each with int64 the other position of every position's
            pair.
        width: the section that says how it grows: the plan's own or that of an override.
    """

    name: str
    source: str | None
    implied: Tensor | None
    initial: bool
    info: TensorInfo
    maps: tuple[AxisMap, ...]
    new: bool
    zero: bool
    paired: tuple[tuple[int, Tensor], ...]
    cancelling: Cancellation | None
    shared: str
    rewrite: Rewrite | None = None
    fill: Fill = "zero"
    remade: bool = False
    next_block: str | None = None
    pair_partners: tuple[tuple[int, Tensor], ...] = ()
    width: Width | None = None

    @property
    def grows(self) -> bool:
        """Whether some dimension grows."""
        return not all(axis.is_identity for axis in self.maps)

    @property
    def from_library(self) -> bool:
        """Whether the library's initial value may have a part in it."""
        return self.initial or self.remade or self.grows

    @property
    def is_copy(self) -> bool:
        """Whether its values are those of the source tensor, in the same places."""
        changed = self.zero or self.paired or self.cancelling is not None or self.source is None
        return not changed and not self.remade and self.rewrite is None and not self.grows


@dataclass(frozen=True, slots=True)
class NewUnits:
    """New hidden units whose weights images decide, by the target's names of the layers around them.

    Attributes:
        writer: the weight whose rows they are.
        reader: the weight whose columns they are.
        columns: whether images decide the columns, and the rows are zero; else the other way round.
        bias: of the writer; None without one.
        statistics: running mean and variance of the BatchNorm between the two layers; None without one.
    """

    writer: str
    reader: str
    columns: bool
    bias: str | None
    statistics: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Kept:
    """A target tensor that stays a grid of combinations: how the blocks of its grid grow."""

    rows: AxisMap
    columns: AxisMap


@dataclass(frozen=True)
class TargetForm:
    """The template form that the target is written in.

    Attributes:
        form: of the file to write.
        in_templates: tensor in template form -> how its grid grows.
        infos: shapes and types of the coefficients and banks that the file holds in their place.
        become_dense: reason why tensors that could be in template form become dense -> these tensors.
    """

    form: Form
    in_templates: Mapping[str, Kept]
    infos: Mapping[str, TensorInfo]
    become_dense: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Recipe:
    """A resolved plan.

    Attributes:
        plan: as the user wrote it, with an operator for whatever grows.
        source: the checkpoint that grows.
        second: the checkpoint that grows beside it; None except for `two_source`.
        target: the model that the checkpoint becomes.
        tensors: target tensor -> how it is made, in the order of the target's state dict.
        templates: what the source's tensors are combinations of.
        form: how the output is made of templates; None if it is dense.
        widths: the channel groups that grow.
        promise: what is kept.
        eps: module path of the target -> the eps at which the promise is exact, for norms that have another.
        source_eps: the same for norms of the source.
        matching: source and target side by side.
        expansions: how each set of channels grows.
        measured: new hidden units whose weights images decide.
        outputs: for each returned tensor, how its dimensions after the first grow; only the features of a model without
            a head do.
        models: source and target, without weights.
        needed_import: the module to import before the library can load the result; None if it can load it alone.
        choices: a sentence for each thing that the plan leaves open and growtool decides.
    """

    plan: Plan
    source: Checkpoint
    second: Checkpoint | None
    target: ModelSpec
    tensors: Mapping[str, TensorRecipe]
    templates: Templates
    form: TargetForm | None
    widths: tuple[WidthChange, ...]
    promise: Promise
    eps: Mapping[str, float]
    source_eps: Mapping[str, float]
    matching: Matching
    expansions: Mapping[GroupPair, Expansion]
    measured: Mapping[GroupPair, NewUnits]
    outputs: tuple[tuple[AxisMap, ...], ...]
    models: tuple[nn.Module, nn.Module]
    needed_import: str | None
    choices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return (
            f"Recipe({self.source.label} -> {self.target.architecture}: {len(self.tensors)} tensors, "
            f"{len(self.widths)} sets of channels grow, {len(self.blocks.new)} new blocks; {self.promise.kind})"
        )

    @property
    def blocks(self) -> BlockMap:
        """Where the blocks of longer sequences come from."""
        return self.matching.blocks

    @property
    def library(self) -> Library:
        """The library that builds both models."""
        return self.matching.source.library

    def initial(self, name: str) -> Tensor:
        """Return a target tensor as its library initialises it with the plan's seed.

        The first call builds the whole model; the tensors that no recipe uses are let go.
        """
        with _INITIALISING:
            return self._initial[name]

    @cached_property
    def _initial(self) -> Mapping[str, Tensor]:
        values = self.library.initialised(self.target, self.plan.seed).state_dict()
        return {name: value for name, value in values.items() if self.tensors[name].from_library}

    @property
    def in_templates(self) -> Mapping[str, Kept]:
        """Tensors of the output that are written as templates and coefficients; see `TargetForm`."""
        return self.form.in_templates if self.form else {}

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Shapes and element types of the tensors in the file to write."""
        dense = {name: tensor.info for name, tensor in self.tensors.items() if name not in self.in_templates}
        return dense | dict(self.form.infos if self.form else {})


def written_dtype(plan: Plan, stored: TensorInfo) -> str:
    """Return the element type that a tensor is written in, by its name in safetensors."""
    if plan.output.dtype == "same" or not stored.is_float:
        return stored.dtype
    return dtype_name(getattr(torch, plan.output.dtype))
