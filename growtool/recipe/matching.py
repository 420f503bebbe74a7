"""Source and target side by side: which block, which tensor and which channels grow into which."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from growtool.errors import PlanError
from growtool.library.inputs import size_text
from growtool.plan.depth import Depth
from growtool.recipe.blocks.identities import obstacle, paired_identities
from growtool.recipe.blocks.identity_shortcut import IdentityShortcut, find_identity_shortcuts, in_place_of_nothing
from growtool.recipe.blocks.placing import BlockMap, place_blocks
from growtool.recipe.traced_model import TracedModel
from growtool.trace import (
    ChannelGroup,
    GroupPair,
    PairedAxis,
    Stretch,
    Unchanged,
    groups_on,
    layers_in_line,
    pair,
    pair_outputs,
    places,
    shortened,
    stretches,
    within,
)
from growtool.trace.pairing.pair import as_paired, origin_of
from growtool.trace.reading.place_names import grouped


@dataclass(frozen=True)
class Matching:
    """Source and target side by side.

    Attributes:
        source, target: both models, traced.
        blocks: where the blocks of grown sequences come from.
        paired: target tensor -> its layout in both models; absent where its block comes from none of the source's.
        outputs: of each returned tensor the layout of its dimensions after the first in both models.
        bridges: tensor of a projection that only the target has -> that projection.
        same: target channel groups that stand for the same channels of the source although the target keeps them apart,
            because a layer that only the target has passes them on; each with the channel group that they count as.
    """

    source: TracedModel
    target: TracedModel
    blocks: BlockMap
    paired: Mapping[str, tuple[PairedAxis, ...]]
    outputs: tuple[tuple[PairedAxis, ...], ...]
    bridges: Mapping[str, IdentityShortcut]
    same: Mapping[ChannelGroup, ChannelGroup]

    def carried(self) -> Iterator[tuple[GroupPair, str]]:
        """Every set of channels with each tensor that carries it."""
        return ((growth, name) for name, axes in self.paired.items() for axis in axes for growth in axis.growths())

    @property
    def shortcuts(self) -> frozenset[str]:
        """The modules that are identity shortcuts."""
        return frozenset(bridge.path for bridge in self.bridges.values())

    @property
    def is_wider(self) -> bool:
        """Whether the target has channels that only a `width` can make."""
        return any(growth.sizes[0] != growth.sizes[1] for growth, _ in self.carried())

    def ignored(self, path: str) -> bool:
        """Whether a module needs no counterpart in the source: it lies in a new block or in a bridge."""
        return self.blocks.is_new(path) or any(within(path, bridge.path) for bridge in self.bridges.values())


def match(source: TracedModel, target: TracedModel, depth: Depth | None) -> Matching:
    """Lay the target beside the source.

    Raises:
        PlanError: the target is smaller somewhere, takes other images, has tensors without counterpart, or layouts that
            do not match; all problems of the first step that has any.
    """
    _require_growth(source, target)
    bridges, stretched = _added(source, target)
    blocks = place_blocks(stretched, depth)
    passes = target.trace.forward, source.trace.forward
    bridges = in_place_of_nothing(bridges, *passes, blocks.source_name)
    _require_counterparts(source, target, blocks, {name for bridge in bridges for name in bridge.tensors})
    passing = [path for path, start in blocks.starts() if start == "identity"]
    paired, same, mismatches, unlike = _paired(source, target, blocks, passing)
    outputs, others = pair_outputs(source.trace, target.trace)
    told = [*grouped([*mismatches, *others]), *unlike]
    matching = Matching(source, target, blocks, paired, outputs, {}, same)
    if not told and bridges:
        return _with_bridges(matching, bridges)
    if told:
        raise PlanError([_headline(source, target), *told])
    return matching


def is_deeper(source: TracedModel, target: TracedModel) -> bool:
    """Whether the target has blocks that only a `depth` can make."""
    return bool(_added(source, target)[1])


@lru_cache(maxsize=2)  # each operator that is tried asks
def _added(source: TracedModel, target: TracedModel) -> tuple[Sequence[IdentityShortcut], Sequence[Stretch]]:
    """What only the target has: projections on shortcuts, and more blocks of a sequence."""
    added = sorted(target.trace.tensors.keys() - source.trace.tensors.keys())
    bridges = find_identity_shortcuts(target.model, target.trace, source.trace, added)
    spanned = {name for bridge in bridges for name in bridge.tensors}
    filled = (_filled(source.model), _filled(target.model)) if added else ({}, {})  # else no sequence is longer
    stretched = stretches(source.trace, target.trace, ignoring=spanned, filled=filled)
    in_line = layers_in_line((source.model, source.trace), (target.model, target.trace))
    return bridges, [*stretched, *in_line]


def _filled(model: nn.Module) -> dict[str, Hashable]:
    """What the buffers hold that the constructor fills: GPT-Neo tells blocks that see a window apart by these alone."""
    stored = set(model.state_dict())
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: _digest(held) for name, held in buffers if name not in stored and not held.is_meta}


def _digest(values: Tensor) -> Hashable:
    flat = values.detach().reshape(-1).contiguous()
    return tuple(values.shape), hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()


def _paired(
    source: TracedModel, target: TracedModel, blocks: BlockMap, passing: Sequence[str]
) -> tuple[dict[str, tuple[PairedAxis, ...]], Mapping[ChannelGroup, ChannelGroup], list[tuple[str, str]], list[str]]:
    """The layouts of all tensors, blocks that pass on what they receive included; see `paired_identities`.

    Raises:
        PlanError: such a block cannot.
    """
    reasons: dict[str, list[str]] = {}
    for path in passing:
        why = obstacle(path, blocks.modules_of(path), target.trace, target.model)
        if why:
            reasons.setdefault(why, []).append(path)
    if reasons:
        raise PlanError([f"{places(paths)}: {why}" for why, paths in reasons.items()])
    modules = {path: blocks.modules_of(path) for path in passing}
    within = tuple(f"{module}." for path in passing for module in modules[path])
    paired, mismatches = pair(
        source.trace, target.trace, lambda name: "" if name.startswith(within) else blocks.source_name(name)
    )
    identities, same, problems = paired_identities(modules, paired, target.trace)
    return {**paired, **identities}, same, mismatches, problems


def _require_growth(source: TracedModel, target: TracedModel) -> None:
    problems = shortened(source.trace, target.trace)
    words, ours, theirs = source.library.words, source.input_sizes, target.input_sizes
    if ours != theirs:
        problems.append(
            f"target: {words.sized(theirs)}, the source takes {size_text(ours)}{words.in_axes}; "
            f"growth keeps the input, {words.keep}"
        )
    problems += _other_classes(source, target)
    if problems:
        raise PlanError(problems)


def _other_classes(source: TracedModel, target: TracedModel) -> list[str]:
    before, after = (traced.library.classes(traced.model) for traced in (source, target))
    if before == after:
        return []
    argument = source.library.words.classes
    if not argument:
        return [
            f"target: the source tells {before} classes apart, the target {after}; growth keeps what the model says"
        ]
    remedy = f"; train other classes with `growtool finetune CKPT --num-classes {after}`" if after else ""
    return [
        f"target.model_args.{argument}: the source has {before} classes, the target {after}; growth keeps the "
        f"classifier, leave {argument} out{remedy}"
    ]


def _require_counterparts(source: TracedModel, target: TracedModel, blocks: BlockMap, spanned: set[str]) -> None:
    names = {name: blocks.source_name(name) for name in target.trace.tensors}
    unheard = [n for n, origin in names.items() if origin not in source.trace.tensors and n not in spanned]
    added = [n for n in unheard if not blocks.is_initial(n)]
    dropped = [n for n in source.trace.tensors if n not in set(names.values())]
    problems = []
    if added:
        problems.append(
            f"{places(added)}: in the target, without counterpart in the source; the two models are built differently "
            "there, choose a target with the same kind of blocks"
        )
    if dropped:
        problems.append(f"{places(dropped)}: in the source, without counterpart in the target; growth drops nothing")
    if problems:
        raise PlanError([_headline(source, target), *problems])


def _with_bridges(matching: Matching, bridges: Sequence[IdentityShortcut]) -> Matching:
    """Give the tensors of bridges the layout they would have if the source had an identity there.

    Raises:
        PlanError: what a projection reads and what it writes are not the same channels in the source.
    """
    origins = {growth.target: growth.source for growth, _ in matching.carried() if growth.source is not None}
    paired, by_name, same = dict(matching.paired), dict[str, IdentityShortcut](), dict(matching.same)
    for bridge in bridges:
        read, written = (origin_of(axis, origins) for axis in (bridge.columns, bridge.rows))
        if written is None or read != written:
            raise PlanError(
                f"{bridge.path}: the target has a projection here, and the source passes on other channels than it "
                "writes; choose a target with the same kind of blocks"
            )
        rows, columns = (as_paired(axis, origins) for axis in (bridge.rows, bridge.columns))
        kernel = PairedAxis(((Unchanged(1),),))
        paired[bridge.weight] = (rows, columns, kernel, kernel)
        for name in bridge.values:
            paired[name] = () if name.endswith("num_batches_tracked") else (rows,)
        by_name |= dict.fromkeys(bridge.tensors, bridge)
        same |= dict(zip(groups_on(bridge.rows), groups_on(bridge.columns), strict=True))
    return replace(matching, paired=paired, bridges=by_name, same=same)


def _headline(source: TracedModel, target: TracedModel) -> str:
    return f"{source.spec.architecture} cannot become {target.spec.architecture} as asked:"
