"""Source and target side by side: which block, which tensor and which channels grow into which."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from growtool.errors import PlanError
from growtool.library.building import constants_of
from growtool.library.inputs import size_text
from growtool.plan.depth import Depth
from growtool.recipe.blocks.identities import identity_layout, paired_identities, why_not_identity
from growtool.recipe.blocks.identity_shortcut import IdentityShortcut, find_identity_shortcuts, in_place_of_nothing
from growtool.recipe.blocks.placing import BlockMap, place_blocks
from growtool.recipe.traced_model import TracedModel
from growtool.trace import (
    ChannelGroup,
    GroupPair,
    PairedAxis,
    Stretch,
    groups_on,
    layers_in_line,
    pair,
    pair_outputs,
    places,
    shortened,
    stretches,
    within,
)
from growtool.trace.pairing.pair import origin_of
from growtool.trace.reading.place_names import grouped


@dataclass(frozen=True)
class Matching:
    """Source and target side by side.

    Attributes:
        source, target: both models, traced.
        blocks: where the blocks of longer sequences come from.
        paired: target tensor -> its layout in both models; absent if its block comes from none of the source's.
        outputs: for each returned tensor the layout, in both models, of its dimensions after the first.
        bridges: projections that only the target has.
        counts_as: channel group of the target -> the one that it counts as. Both stand for the same channels of the
            source; the target keeps them apart because a layer that only it has passes them on.
    """

    source: TracedModel
    target: TracedModel
    blocks: BlockMap
    paired: Mapping[str, tuple[PairedAxis, ...]]
    outputs: tuple[tuple[PairedAxis, ...], ...]
    bridges: tuple[IdentityShortcut, ...]
    counts_as: Mapping[ChannelGroup, ChannelGroup]

    def carried(self) -> Iterator[tuple[GroupPair, str]]:
        """Yield every set of channels with each target tensor that carries it."""
        return ((growth, name) for name, axes in self.paired.items() for axis in axes for growth in axis.growths())

    @property
    def shortcuts(self) -> frozenset[str]:
        """Paths of the modules that are identity shortcuts."""
        return frozenset(bridge.path for bridge in self.bridges)

    @property
    def is_wider(self) -> bool:
        """Whether some channels grow, so that the plan needs a `width`."""
        return any(growth.sizes[0] != growth.sizes[1] for growth, _ in self.carried())

    def ignored(self, path: str) -> bool:
        """Return whether a module needs no counterpart in the source: it lies in a new block or in a bridge."""
        return self.blocks.is_new(path) or any(within(path, bridge.path) for bridge in self.bridges)


def match(source: TracedModel, target: TracedModel, depth: Depth | None) -> Matching:
    """Lay the target beside the source: inputs and classes first, then blocks, tensors, and the layouts of tensors.

    Args:
        source, target: both models.
        depth: the plan's section, which says where new blocks go.

    Raises:
        PlanError: the target is smaller somewhere, takes other inputs, has tensors without counterpart, or layouts that
            do not match; all problems of the first step that finds any.
    """
    _require_growth(source, target)
    bridges, stretched = _added(source, target)
    blocks = place_blocks(stretched, depth)
    passes = target.trace.forward, source.trace.forward
    bridges = in_place_of_nothing(bridges, *passes, blocks.source_name)
    _require_counterparts(source, target, blocks, {name for bridge in bridges for name in bridge.tensors})
    paired, counts_as, mismatches, unlike = _paired(source, target, blocks)
    outputs, output_mismatches = pair_outputs(source.trace, target.trace)
    problems = [*grouped([*mismatches, *output_mismatches]), *unlike]
    if problems:
        raise PlanError([_headline(source, target), *problems])
    matching = Matching(source, target, blocks, paired, outputs, (), counts_as)
    return _with_bridges(matching, bridges) if bridges else matching


def is_deeper(source: TracedModel, target: TracedModel) -> bool:
    """Return whether the target has more blocks, so that the plan needs a `depth`."""
    return bool(_added(source, target)[1])


@lru_cache(maxsize=2)  # `match` runs once for each depth operator that is tried
def _added(source: TracedModel, target: TracedModel) -> tuple[Sequence[IdentityShortcut], Sequence[Stretch]]:
    """Return what only the target has: projections on shortcuts, and the sequences with more blocks."""
    added = sorted(target.trace.tensors.keys() - source.trace.tensors.keys())
    bridges = find_identity_shortcuts(target.model, target.trace, source.trace, added)
    spanned = {name for bridge in bridges for name in bridge.tensors}
    # hashing buffers takes time: without further tensors no sequence is longer, and they need not be compared
    filled = (_digests(source.model), _digests(target.model)) if added else ({}, {})
    stretched = stretches(source.trace, target.trace, ignoring=spanned, filled=filled)
    in_line = layers_in_line((source.model, source.trace), (target.model, target.trace))
    return bridges, [*stretched, *in_line]


def _digests(model: nn.Module) -> dict[str, Hashable]:
    """Return a digest of each buffer that no checkpoint holds.

    Blocks of GPT-Neo that see a window alone differ from the others in nothing but such a buffer.
    """
    digests = dict[str, Hashable]()
    for name, values in constants_of(model).items():
        flat = values.detach().reshape(-1).contiguous()
        digests[name] = tuple(values.shape), hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()
    return digests


def _paired(
    source: TracedModel, target: TracedModel, blocks: BlockMap
) -> tuple[dict[str, tuple[PairedAxis, ...]], Mapping[ChannelGroup, ChannelGroup], list[tuple[str, str]], list[str]]:
    """Pair the layouts of all tensors, those of blocks that pass on what they receive included.

    Returns:
        The layouts; groups that count as one (see `Matching`); places whose layouts do not match, with the reason; a
        line for each passing block whose input and output are not the same channels.

    Raises:
        PlanError: a passing block cannot pass on what it receives.
    """
    passing = {path: blocks.modules_of(path) for path, start in blocks.starts() if start == "identity"}
    reasons = ((path, why_not_identity(path, modules, target.trace, target.model)) for path, modules in passing.items())
    problems = grouped((path, why) for path, why in reasons if why)
    if problems:
        raise PlanError(problems)

    def source_name(name: str) -> str:
        return "" if blocks.passes_on(name) else blocks.source_name(name)  # no tensor is called ""

    paired, mismatches = pair(source.trace, target.trace, source_name)
    identities, counts_as, unlike = paired_identities(passing, paired, target.trace)
    return {**paired, **identities}, counts_as, mismatches, unlike


def _require_growth(source: TracedModel, target: TracedModel) -> None:
    """Check that no sequence of blocks is shorter, and that inputs and classes stay; raise PlanError if not."""
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
    """Return a line if the target tells another number of classes apart than the source."""
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
    """Check that each tensor has its counterpart in the other model; raise PlanError if not.

    Args:
        source, target: both models.
        blocks: where blocks come from; those with initial values need no counterpart.
        spanned: tensors of bridges, which need none either.
    """
    origins = {name: blocks.source_name(name) for name in target.trace.tensors}
    added = [
        name
        for name, origin in origins.items()
        if origin not in source.trace.tensors and name not in spanned and not blocks.is_initial(name)
    ]
    kept = set(origins.values())
    dropped = [name for name in source.trace.tensors if name not in kept]
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
    """Add the tensors of bridges, with the layout that they would have if the source had an identity there.

    Raises:
        PlanError: a projection reads other channels of the source than it writes.
    """
    # the channels on either side of a projection are carried by other tensors, too, which tell what they are made from
    origins = {growth.target: growth.source for growth, _ in matching.carried() if growth.source is not None}
    paired, counts_as = dict(matching.paired), dict(matching.counts_as)
    for bridge in bridges:
        read, written = origin_of(bridge.columns, origins), origin_of(bridge.rows, origins)
        if written is None or read != written:
            raise PlanError(
                f"{bridge.path}: the target has a projection here, and the source passes on other channels than it "
                "writes; choose a target with the same kind of blocks"
            )
        paired |= {name: identity_layout(matching.target.trace.tensors[name], origins) for name in bridge.tensors}
        counts_as |= dict(zip(groups_on(bridge.rows), groups_on(bridge.columns), strict=True))
    return replace(matching, paired=paired, bridges=tuple(bridges), counts_as=counts_as)


def _headline(source: TracedModel, target: TracedModel) -> str:
    return f"{source.spec.architecture} cannot become {target.spec.architecture} as asked:"
