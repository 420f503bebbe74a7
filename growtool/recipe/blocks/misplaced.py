"""Why blocks of a longer sequence have no place in it: the lines that users read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from growtool.operators.depth.placement import listed
from growtool.plan.depth import INITIAL, Depth, Map
from growtool.trace import Stretch, places


def stretch_problems(stretch: Stretch, depth: Depth | None) -> list[str]:
    """Return a line for each reason why a sequence cannot become longer by this section of the plan."""
    p, old, new = stretch.prefix, stretch.source, stretch.target
    kept = {i for same in stretch.alike.values() for i in same}
    if foreign := [i for i in old if i not in kept]:
        return [
            f"target: {places(f'{p}{j}' for j in new if not stretch.alike[j])}: found no block with the parameters of "
            f"{places(f'{p}{i}' for i in foreign)} of the source, each as large or larger, expected one for each to "
            "become; choose a target with the same kind of blocks, or leave the depth of this stage as it is"
        ]
    if depth is None:
        return [
            f"{p}*: {len(old)} blocks in the source, {len(new)} in the target, and the plan has no `depth`; "
            "add `depth: {operator: zero_out}` (or stack, interleave)"
        ]
    return list(_wrong_map(stretch, depth)) if isinstance(depth, Map) else []


def _wrong_map(stretch: Stretch, depth: Map) -> Iterator[str]:
    """Yield a line for each thing that is wrong with the plan's own list for a stage."""
    stage, old, new = stretch.prefix.rstrip("."), stretch.source, stretch.target
    sources = listed(depth, stretch.prefix)
    if sources is None:
        yield f"depth.map: found no list for {stage}, expected one: it grows to {len(new)} blocks"
        return
    if len(sources) != len(new):
        yield f"depth.map: found {len(sources)} blocks for {stage}, expected {len(new)}: the target has so many there"
        return
    named = [source for source in sources if source is not None]
    unknown = sorted(set(named) - set(old))
    if unknown:
        yield f"depth.map: found block {unknown[0]} for {stage}, expected one of {old[0]} to {old[-1]} of the source"
        return
    missing = sorted(set(old) - set(named))
    if missing:
        yield f"depth.map: found no block made from {stage}.{missing[0]}, expected each to stay; growth drops nothing"
    if list(dict.fromkeys(named)) != sorted(set(named)):
        yield f"depth.map: found {named} for {stage}, expected each block to come first after its predecessor"
    for j, source in zip(new, sources, strict=True):
        if source is not None and source not in stretch.alike[j]:
            kind = ", ".join(map(str, stretch.alike[j]))
            wanted = (
                f"one of {kind}: blocks of the same kind" if kind else f"{INITIAL}: the source has no block of its kind"
            )
            yield f"depth.map: found {stage}.{j} made from {stage}.{source}, expected {wanted}"
            return


def superfluous_lists(depth: Map, growing: Collection[str]) -> list[str]:
    """Return a line for each list of the plan whose stage does not grow or does not exist."""
    stages = depth.map if isinstance(depth.map, Mapping) else {}
    return [
        f"depth.map: found a list for {stage}, which does not grow deeper, expected lists for "
        f"{', '.join(sorted(growing)) or 'stages that do'} alone; drop it"
        for stage in stages
        if stage not in growing
    ]


def too_few(
    stretch: Stretch, sources: tuple[int, ...], targets: list[int], by_kind: Mapping[tuple[int, ...], list[int]]
) -> str:
    """Return why the target has fewer blocks of one kind than the source.

    Args:
        stretch: the sequence.
        sources: the blocks of this kind in the source.
        targets: those in the target.
        by_kind: blocks of the source -> the blocks of the target that could be copies of each of these.
    """
    p = stretch.prefix
    if any(set(sources) & set(others) for others in by_kind if others != sources):
        return (
            f"{p}{targets[0]}: has the parameters of {p}{sources[0]} to {p}{sources[-1]} of the source, but is put "
            "together as none of them is, expected a block that is; choose a target with the same kind of blocks"
        )
    return (
        f"{p}*: {len(sources)} blocks like {p}{sources[0]} in the source, {len(targets)} in the target; growth never "
        "removes blocks"
    )


def out_of_order(stretch: Stretch, kinds: int) -> str:
    """Return why blocks of this many kinds cannot stay in the order of the source."""
    return (
        f"{stretch.prefix}*: blocks of {kinds} kinds alternate, and {len(stretch.target)} blocks would put them out of "
        "order; add as many blocks of each kind"
    )
