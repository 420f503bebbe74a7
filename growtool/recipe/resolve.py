"""From a plan and a checkpoint to a recipe: trace both models, pair their axes, ask the operators."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from growtool.algebra.expansion import AxisMap, Expansion, axis_map
from growtool.algebra.promise import Promise, different_operations, uneven_mixings
from growtool.checkpoint import Checkpoint, ModelSpec, TensorInfo, build, dtype_name, input_size
from growtool.checkpoint.match import check_strict
from growtool.checkpoint.reach import home_module
from growtool.coupling import (
    Atom,
    Coupling,
    Growth,
    PairedAxis,
    pair,
    shortened,
    stretches,
    torn_groups,
    trace_model,
)
from growtool.errors import CheckpointError, PlanError
from growtool.operators.base import generator_for
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.recipe.blocks import BlockMap, place_blocks
from growtool.recipe.recipe import Recipe, TensorRecipe, WidthChange
from growtool.recipe.target import target_spec

_SHOWN = 8  # problems of one kind named one by one


@dataclass(frozen=True)
class Traced:
    """A model, built without weights, and its coupling."""

    spec: ModelSpec
    model: nn.Module
    coupling: Coupling

    @classmethod
    def of(cls, spec: ModelSpec, *, where: str) -> Traced:
        """Build and trace. Raises CheckpointError where timm cannot build it."""
        model = build(spec, where=where)
        return cls(spec, model, trace_model(model, input_size(model)))

    @classmethod
    def target_of(cls, plan: Plan, source: Traced) -> Traced:
        """Build and trace what the plan wants. Raises PlanError where there is no such model."""
        spec = target_spec(plan.target, source.spec, source.model, source.coupling)
        try:
            return cls.of(spec, where="target")
        except CheckpointError as error:
            raise PlanError(error.problems) from error


def resolve(plan: Plan, checkpoint: Checkpoint) -> Recipe:
    """Everything about a growth that can be known without reading weights.

    Raises:
        CheckpointError: the file does not hold the model it claims.
        PlanError: the target cannot be reached; every problem found, each with its place and remedy.
    """
    source = Traced.of(checkpoint.spec, where=checkpoint.name)
    check_strict(checkpoint, source.model)
    target = Traced.target_of(plan, source)
    _require_growth(source, target)
    blocks = place_blocks(stretches(source.coupling, target.coupling), plan.depth)
    paired = _paired(source, target, blocks)
    expansions, widths = _expansions(plan, target.coupling, paired)
    tensors = _tensors(plan, checkpoint, target, blocks, paired, expansions)
    return Recipe(
        plan=plan,
        source=checkpoint,
        target=target.spec,
        num_features=int(getattr(target.model, "num_features", 0)),
        tensors=tensors,
        widths=widths,
        blocks=blocks,
        promise=_promise(plan, source, target, blocks, paired, expansions),
        input_size=input_size(source.model),
        needs=_needed(target.spec),
    )


def _needed(spec: ModelSpec) -> str | None:
    package = home_module(spec).split(".")[0]
    return None if package == "timm" else package


def _require_growth(source: Traced, target: Traced) -> None:
    problems = shortened(source.coupling, target.coupling)
    if input_size(source.model) != input_size(target.model):
        problems.append(
            f"target: images of {input_size(target.model)}, the source takes {input_size(source.model)} (channels, "
            "height, width); growth keeps the input, set img_size and in_chans alike"
        )
    if problems:
        raise PlanError(problems)


def _paired(source: Traced, target: Traced, blocks: BlockMap) -> dict[str, tuple[PairedAxis, ...]]:
    """Every target tensor with its origin.

    Raises:
        PlanError: tensors without counterpart on either side, or layouts that do not match.
    """
    wanted = {blocks.source_name(name) for name in target.coupling.tensors}
    added = [n for n in target.coupling.tensors if blocks.source_name(n) not in source.coupling.tensors]
    dropped = [n for n in source.coupling.tensors if n not in wanted]
    problems = []
    if added:
        problems.append(
            f"{_some(added)}: in the target, without counterpart in the source; the two models are built differently "
            "there, choose a target with the same kind of blocks"
        )
    if dropped:
        problems.append(f"{_some(dropped)}: in the source, without counterpart in the target; growth drops nothing")
    if not problems:
        paired, mismatches = pair(source.coupling, target.coupling, blocks.source_name)
        problems = mismatches[:_SHOWN]
        if len(mismatches) > _SHOWN:
            problems.append(f"... and {len(mismatches) - _SHOWN} more tensors that do not match")
        if not problems:
            return paired
    raise PlanError([f"{source.spec.architecture} cannot become {target.spec.architecture} as asked:", *problems])


def _expansions(
    plan: Plan, target: Coupling, paired: Mapping[str, tuple[PairedAxis, ...]]
) -> tuple[dict[Growth, Expansion], tuple[WidthChange, ...]]:
    """How each set of channels grows.

    Raises:
        PlanError: something grows and the plan has no `width`, or the operator cannot grow it so far.
    """
    carried: dict[Growth, list[str]] = defaultdict(list)
    for name, axes in paired.items():
        for axis in axes:
            for growth in axis.growths():
                carried[growth].append(name)
    names = {group.atom: group.name for group in target.groups}
    expansions: dict[Growth, Expansion] = {}
    widths, problems = [], dict[str, list[str]]()
    for growth, tensors in carried.items():
        before, after = growth.sizes
        if before == after:
            expansions[growth] = Expansion.identity(before)
            continue
        widths.append(WidthChange(names[growth.target], before, after, len(set(tensors))))
        if plan.width is None:
            problems.setdefault("the plan has no `width`; add `width: {operator: tile}`", []).append(
                f"{names[growth.target]} ({before} -> {after})"
            )
            continue
        operator = OPERATORS[plan.width.operator].implementation()
        try:
            generator = generator_for(plan.seed, f"expansion of {names[growth.target]}")
            expansions[growth] = operator.expand(plan.width, before, after, generator)
        except ValueError as error:
            why = f"{plan.width.operator} takes whole multiples ({error}); use net2net, or other widths"
            problems.setdefault(why, []).append(names[growth.target])
    if problems:
        raise PlanError([f"{_some(groups)}: {why}" for why, groups in problems.items()])
    return expansions, tuple(widths)


def _tensors(
    plan: Plan,
    checkpoint: Checkpoint,
    target: Traced,
    blocks: BlockMap,
    paired: Mapping[str, tuple[PairedAxis, ...]],
    expansions: dict[Growth, Expansion],
) -> dict[str, TensorRecipe]:
    zeroed = _closing_tensors(target.coupling, blocks)
    banks = _banks(checkpoint.tensors)
    recipes = {}
    for name, value in target.model.state_dict().items():
        origin = blocks.source_name(name)
        stored = checkpoint.tensors[origin]
        maps = tuple(
            axis_map(axis, expansions, _consumed(target.coupling, axis, name, dim))
            for dim, axis in enumerate(paired[name])
        )
        recipes[name] = TensorRecipe(
            name=name,
            source=origin,
            info=TensorInfo(tuple(value.shape), _output_dtype(plan, stored)),
            maps=maps,
            new=blocks.is_new(name),
            zero=name in zeroed,
            templates=banks[origin],
        )
    return recipes


def _consumed(coupling: Coupling, axis: PairedAxis, name: str, dim: int) -> frozenset[Growth]:
    return frozenset(g for g in axis.growths() if (g.target, name, dim) in coupling.consumers)


def _output_dtype(plan: Plan, stored: TensorInfo) -> str:
    import torch

    if plan.output.dtype == "same" or not stored.is_float:
        return stored.dtype
    return dtype_name(getattr(torch, plan.output.dtype))


def _closing_tensors(target: Coupling, blocks: BlockMap) -> frozenset[str]:
    """The tensors that end the residual branches of the blocks that are to start as the identity.

    Raises:
        PlanError: such a block has no residual connection.
    """
    open_ended = [path for path in blocks.closed if path not in target.exits]
    if open_ended:
        raise PlanError(
            f"{_some(open_ended)}: zero_out needs a residual connection around the block, and the trace found none; "
            "use stack or interleave (lossy)"
        )
    return frozenset(name for path in blocks.closed for name in target.exits[path])


def _banks(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[str, ...]]:
    """The raw bank of each tensor: the tensors of the same shape in the same stage, in order of name."""
    banks: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in sorted(tensors):
        banks[_stage(name), tensors[name].shape].append(name)
    return {name: tuple(banks[_stage(name), info.shape]) for name, info in tensors.items()}


def _stage(name: str) -> str:
    """The path up to the last numbered module: `layer2` for `layer2.0.conv1.weight`."""
    numbered = list(re.finditer(r"(?:^|\.)\d+(?=\.)", name))
    return name[: numbered[-1].start()] if numbered else name


def _promise(
    plan: Plan,
    source: Traced,
    target: Traced,
    blocks: BlockMap,
    paired: Mapping[str, tuple[PairedAxis, ...]],
    expansions: Mapping[Growth, Expansion],
) -> Promise:
    reasons = []
    for section, grown in ((plan.width, _any_grows(expansions.values())), (plan.depth, bool(blocks.new))):
        if section is not None and grown:
            reason = OPERATORS[section.operator].implementation().loss(section)
            reasons += [reason] if reason else []
    reasons += different_operations(source.coupling, target.coupling, blocks.source_name, blocks.is_new)
    by_atom: dict[Atom, Expansion] = {growth.target: e for growth, e in expansions.items()}
    reasons += uneven_mixings(target.coupling, by_atom, blocks.is_new)
    if not reasons:
        reasons = torn_groups(paired, [n for n in paired if not blocks.is_new(n)])
    reasons += _other_buffers(source.model, target.model, blocks, paired, expansions)
    return Promise("lossy", tuple(reasons)) if reasons else Promise("exact")


def _other_buffers(
    source: nn.Module,
    target: nn.Module,
    blocks: BlockMap,
    paired: Mapping[str, tuple[PairedAxis, ...]],
    expansions: Mapping[Growth, Expansion],
) -> list[str]:
    """Buffers that no checkpoint holds: the constructor fills them, and growth needs the same values there."""
    stored = set(target.state_dict())
    old = dict(source.named_buffers(remove_duplicate=False))
    found = []
    for name, buffer in target.named_buffers(remove_duplicate=False):
        if name in stored or name not in paired or blocks.is_new(name):
            continue
        expected = old[blocks.source_name(name)]
        for dim, axis in enumerate(paired[name]):
            mapped: AxisMap = axis_map(axis, dict(expansions), frozenset())
            expected = expected.index_select(dim, mapped.index)
        if expected.shape != buffer.shape or not bool((expected == buffer).all()):
            found.append(f"{name}: timm fills this buffer with other values in the target")
    return found


def _any_grows(expansions: Iterable[Expansion]) -> bool:
    return any(not expansion.is_identity for expansion in expansions)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
