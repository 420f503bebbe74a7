"""What blank channels and factors ask of single tensors: rewrites before growth, and what stands at blank rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from growtool.algebra.expansion import Fill
from growtool.algebra.rewrite import Rewrite, scaled_by
from growtool.prove.scales.scaling import Scaling
from growtool.recipe.matching import Matching
from growtool.recipe.widths.expand import Widths
from growtool.trace import ChannelGroup, GroupPair, PairedAxis, groups_on, positions


def rewrites(matching: Matching, widths: Widths, scaled: Scaling) -> Mapping[str, Rewrite]:
    """Return what is done to source tensors before they grow, by the target's names; absent: nothing.

    Args:
        matching: source and target side by side.
        widths: how channels grow.
        scaled: what rows of tensors are multiplied by.
    """
    found = {name: scaled_by(rows, scaled.offsets.get(name, 0.0)) for name, rows in scaled.row_factors.items()}
    # A scale g per channel stands between a writer W and a mean that has to be taken off. With r the root mean square
    # of g, diag(g) W = r (diag(g / r) W): the writer takes g / r, and the scale keeps the same r for all channels,
    # through which centring passes.
    for group, blanks in widths.blanks.items():
        for name, scale in blanks.writers.items():
            source = matching.blocks.source_name(scale) if scale else None
            found[name] = replace(
                found.get(name, Rewrite()),
                scale=source,
                centre=blanks.blank != "mean",
                dim=_rows(matching, group, name),
            )
            if scale:
                found[scale] = replace(found.get(scale, Rewrite()), level=True)
    # a gain that several norms or sets of channels name is rescaled once
    for gain, norm in {gain: rescaled for rescaled in widths.norms for gain in rescaled.gains}.items():
        rewrite = found.get(gain, Rewrite())
        found[gain] = replace(rewrite, factor=rewrite.factor * math.sqrt(norm.s), offset=norm.offset)
    for names in matching.target.trace.forward.stored.values():
        for name in found.keys() & set(names):  # a shared parameter is written under each of its names
            found |= dict.fromkeys(names, found[name])
    return found


def _rows(matching: Matching, group: ChannelGroup, name: str) -> int:
    """Return the dimension of a tensor that holds these channels alone and that no sum runs over."""
    trace = matching.target.trace
    return next(
        dim
        for dim, axis in enumerate(trace.tensors[name])
        if axis == ((group,),) and (group, name, dim) not in trace.consumers
    )


def filling(widths: Widths, name: str, rows: list[GroupPair]) -> Fill:
    """Return what stands at the blank rows of a tensor; `rows` are the sets of channels that no sum runs over there."""
    fills = {widths.blanks[growth.target].fills[name] for growth in rows if growth.target in widths.blanks}
    order: tuple[Fill, ...] = ("zero", "noise", "mean")
    return next((fill for fill in order if fill in fills), "zero")


def unread(widths: Widths, axis: PairedAxis, name: str) -> frozenset[GroupPair]:
    """Return the sets of channels on an axis whose blanks are zero wherever this tensor reads them."""
    return frozenset(
        growth
        for growth in axis.growths()
        if growth.target in widths.blanks and name in widths.blanks[growth.target].free
    )


def pair_partners(matching: Matching, widths: Widths, name: str) -> tuple[tuple[int, Tensor], ...]:
    """Return the dimensions with open blank channels, and for each position the other one of its pair, int64.

    Nothing if new units do not come in pairs.
    """
    if not widths.in_pairs:
        return ()
    pairs = {
        group: _partner(widths.of_target[group].blank)
        for group, passage in widths.blanks.items()
        if passage.blank == "open"
    }
    axes = matching.target.trace.tensors[name]
    return tuple(
        (dim, positions(axis, pairs))
        for dim, axis in enumerate(axes)
        if any(group in pairs for group in groups_on(axis))
    )


def _partner(blank: Tensor) -> Tensor:
    """Return int64 [channels]: the first half of the blanks pairs with the second; all others name themselves."""
    partner, new = torch.arange(len(blank)), torch.nonzero(blank).flatten()
    half = len(new) // 2
    partner[new[:half]], partner[new[half : 2 * half]] = new[half : 2 * half], new[:half]
    return partner
