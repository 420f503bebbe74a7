"""Heads that become larger: what keeps the products of queries and keys when the channels of a head are copied.

Attention computes `scale * sum_d q_d k_d`. With m copies of every channel of a head the sum grows m-fold, and scale, a
function of the head size, becomes another. So the rows that write q and those that write k are multiplied by
`sqrt(scale / (m scale'))` each: for scale = d^-1/2 that is `(d / d')^1/4` (HyperCloning, arXiv 2409.12903). Which rows
those are is found by following channel numbers from the layer that writes them to the product.

Queries may meet tables of relative positions as well, `s sum_d q_d r_d` with a parameter r that nothing else reads. The
columns of r are split among the copies like any weight's, so what is left to make up for is the factor on q and a scale
s of its own: r is multiplied by the inverse of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from growtool.algebra.expansion import Expansion
from growtool.prove.product_scaling import Entry, Pass, Product, UnknownError, products, sums_over
from growtool.trace import ChannelGroup, Trace


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """What makes up for larger heads.

    Attributes:
        groups: the channels of a head, of the target, whose products are kept.
        rows: the source's parameter -> bool [rows], those to multiply, and by what.
        entries: module path of the target -> an entry of its signature and that of the source which it stands for.
    """

    groups: frozenset[ChannelGroup] = frozenset()
    rows: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    entries: Mapping[str, Mapping[Entry, Entry]] = field(default_factory=dict)


def head_sizes(
    source: Trace, target: Trace, expansions: Mapping[ChannelGroup, Expansion], source_path: Callable[[str], str]
) -> HeadSizes:
    """Find what keeps the products over every set of channels that is copied evenly, where something does.

    Args:
        source: the source's trace.
        target: the target's.
        expansions: how each set of channels grows; those that stay may be absent.
        source_path: path of a module of the target -> that of its counterpart.
    """
    kept = set[ChannelGroup]()
    rows: dict[str, tuple[Tensor, float]] = {}
    entries: dict[str, Mapping[Entry, Entry]] = {}
    for group, expansion in expansions.items():
        if expansion.is_identity or expansion.multiplicity is None:
            continue
        try:
            found = [
                _kept(source, target, place, expansion.multiplicity, source_path)
                for place in products(target)
                if sums_over(target, place, group)
            ]
        except UnknownError:
            continue
        if found:
            kept.add(group)
            for own_rows, module, own_entries in found:
                rows |= own_rows
                entries[module] = {**entries.get(module, {}), **own_entries}
    return HeadSizes(frozenset(kept), rows, entries)


def _kept(
    source: Trace, target: Trace, place: int, copies: int, source_path: Callable[[str], str]
) -> tuple[dict[str, tuple[Tensor, float]], str, dict[Entry, Entry]]:
    """Rows of the source and the factor for one product, its module, and the numbers that differ there."""
    module = target.forward.steps[place].module
    number = [p for p in products(target) if target.forward.steps[p].module == module].index(place)
    counterparts = [p for p in products(source) if source.forward.steps[p].module == source_path(module)]
    if number >= len(counterparts):
        raise UnknownError
    before, after = Pass(source).product(counterparts[number]), Pass(target).product(place)
    if min(before.scale, after.scale) <= 0:
        raise UnknownError
    factor = (before.scale / (copies * after.scale)) ** 0.5
    rows = {name: (mask, factor) for name, mask in before.rows.items()}
    return rows | _tables(before, after, factor, source_path), module, _changed_numbers(before, after, target, module)


def _tables(
    before: Product, after: Product, factor: float, source_path: Callable[[str], str]
) -> dict[str, tuple[Tensor, float]]:
    """The tables that scaled rows meet, all their rows, and what makes up for the factor of these."""
    names = [
        f"{source_path(path)}.{own}" if path else own for path, _, own in (t.name.rpartition(".") for t in after.tables)
    ]
    if names != [table.name for table in before.tables]:
        raise UnknownError
    found: dict[str, tuple[Tensor, float]] = {}
    for old, new in zip(before.tables, after.tables, strict=True):
        if min(old.scale, new.scale) <= 0:
            raise UnknownError
        found[old.name] = torch.ones(old.rows, dtype=torch.bool), old.scale / (factor * new.scale)
    return found


def _changed_numbers(before: Product, after: Product, target: Trace, module: str) -> dict[Entry, Entry]:
    """The numbers of a product that are others in the target, each with the source's."""
    if [name for name, _ in before.scalars] != [name for name, _ in after.scalars]:
        raise UnknownError
    pairs = {(new, old) for (_, new), (_, old) in zip(after.scalars, before.scalars, strict=True)}
    changed = {new: old for new, old in pairs if new != old}
    if len(pairs) != len({new for new, _ in pairs}):
        raise UnknownError
    for entry in changed:  # nothing else in the module may hide behind a number of this product
        if target.signatures[module].count(entry) != sum(own == entry for _, own in after.scalars):
            raise UnknownError
    return changed
