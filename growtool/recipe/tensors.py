"""The recipe of each tensor: its axis maps, its source, and what blocks, widths and scales ask of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from growtool.algebra.axis_map import AxisMap, axis_map
from growtool.algebra.identity_init import identity_value
from growtool.checkpoint import Checkpoint, TensorInfo
from growtool.recipe.analysis import Analysis
from growtool.recipe.blocks.starts import BlockInit
from growtool.recipe.recipe import TensorRecipe, written_dtype
from growtool.recipe.ties import first_names
from growtool.recipe.widths.rewriting import filling, pair_partners, rewrites, unread
from growtool.trace import GroupPair, PairedAxis, Trace


def tensor_recipes(growing: Analysis, checkpoint: Checkpoint) -> dict[str, TensorRecipe]:
    """Return the recipe of every tensor of the target, by name, in the order of the state dict."""
    plan, matching, widths, starts = growing.plan, growing.matching, growing.widths, growing.starts
    trace, blocks = matching.target.trace, matching.blocks
    rewritten = rewrites(matching, widths, growing.scaled)
    first, heirs = first_names(matching.target.model), starts.closing.handing.heirs
    equal: dict[bytes, AxisMap] = {}

    # Many tensors carry the same channels in the same layout, and many sets of channels grow alike. Equal maps are one
    # object, so that all recipes together hold few index tensors.
    @cache
    def mapped(axis: PairedAxis, summed: frozenset[GroupPair], free: frozenset[GroupPair]) -> AxisMap:
        made = axis_map(axis, widths.expansions, summed, free)
        return equal.setdefault(made.fingerprint, made)

    recipes = {}
    for name, value in matching.target.model.state_dict().items():
        front = heirs.get(name)  # the gain or shift of another norm, whose values this one takes over
        axes = matching.paired.get(front or name, ())
        # Columns that are copied, not split, grow as if no sum ran over them; other weights make up for the copies.
        summed = [
            frozenset() if name in growing.scaled.copied else consumed(trace, axis, name, dim)
            for dim, axis in enumerate(axes)
        ]
        by_axis = list(zip(axes, summed, strict=True))
        maps = tuple(mapped(axis, sums, unread(widths, axis, name)) for axis, sums in by_axis)
        rows = [growth for axis, sums in by_axis for growth in axis.growths() if growth not in sums]
        implied = _implied(name, value.shape, maps, starts, trace.norm_eps)
        initial = blocks.is_initial(name) and implied is None and front is None
        origin = None if implied is not None or initial else blocks.source_name(front or name)
        stored = checkpoint.tensors[origin] if origin else _unstored(value, checkpoint)
        recipes[name] = TensorRecipe(
            name=name,
            source=origin,
            implied=implied,
            initial=initial,
            info=TensorInfo(tuple(value.shape), written_dtype(plan, stored)),
            maps=maps,
            new=blocks.is_new(name),
            zero=name in starts.zero,
            paired=starts.paired.get(name, ()),
            cancelling=starts.cancelling.get(name),
            shared=first[name],
            rewrite=rewritten.get(name),
            fill=filling(widths, front or name, rows),
            remade=widths.every_tensor and value.is_floating_point() and not initial,
            next_block=_next_block(origin, checkpoint) if origin else None,
            pair_partners=pair_partners(matching, widths, name),
            width=growing.sections.get(name, plan.width),
        )
    return recipes


def _next_block(name: str, checkpoint: Checkpoint) -> str | None:
    """Return the name of the same tensor one block on, or None if the checkpoint has none of the same shape."""
    for number in re.finditer(r"(?<=\.)\d+(?=\.)", name):
        following = f"{name[: number.start()]}{int(number[0]) + 1}{name[number.end() :]}"
        if following in checkpoint.tensors and checkpoint.tensors[following].shape == checkpoint.tensors[name].shape:
            return following
    return None


def _implied(
    name: str, shape: Sequence[int], maps: Sequence[AxisMap], starts: BlockInit, norm_eps: Mapping[str, float]
) -> Tensor | None:
    """Return what the source would hold under a name if it had a layer there that passes its input on.

    None for a tensor of any other layer. Name and shape are those in the target; for `norm_eps` see `Trace`.
    """
    before = tuple(axis.size for axis in maps) if maps else tuple(shape)  # a block with initial values has no maps
    unit_affine = starts.closing.handing.unit_affine
    if name in unit_affine:
        return torch.full(before, unit_affine[name], dtype=torch.float64)
    if name in starts.identity_layers:
        return identity_value(name, before, norm_eps.get(name))
    return None


def consumed(trace: Trace, axis: PairedAxis, name: str, dim: int) -> frozenset[GroupPair]:
    """Return the sets of channels on a dimension of a tensor that a sum runs over there."""
    return frozenset(g for g in axis.growths() if (g.target, name, dim) in trace.consumers)


def _unstored(value: Tensor, checkpoint: Checkpoint) -> TensorInfo:
    """Return what a file would say of a tensor that has no source, the shape aside.

    Its type is that of most floating-point numbers in the checkpoint, or int64 without dimensions: then it is a
    BatchNorm's counter of batches.
    """
    if value.ndim == 0:
        return TensorInfo((), "I64")
    sizes: dict[str, int] = defaultdict(int)
    for info in checkpoint.tensors.values():
        if info.is_float:
            sizes[info.dtype] += info.numel
    return TensorInfo((), max(sizes, key=lambda dtype: sizes[dtype]))
