"""The promise of a growth: whether it keeps the function, and if not, why; decided before a weight is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from growtool.algebra.axis_map import axis_map
from growtool.algebra.expansion import Expansion
from growtool.algebra.layers import copy_positions, split_evenly
from growtool.library.building import constants_of
from growtool.plan.depth import Depth
from growtool.plan.width import Width
from growtool.prove.ensemble import mixed_halves
from growtool.prove.eps import eps_obstacles, eps_shifts, needed_eps, renormed_shifts
from growtool.prove.obstacle import Obstacle, Section, Why, blamed, obstacles
from growtool.prove.promise import (
    Promise,
    joint_obstacles,
    other_norm_groups,
    read_in_several_ways,
    stopped_blanks,
)
from growtool.recipe.analysis import Analysis
from growtool.recipe.matching import Matching
from growtool.recipe.tensors import consumed
from growtool.recipe.ties import untied
from growtool.trace import GroupPair, torn_groups
from growtool.trace.reading.place_names import grouped


def promise_of(growing: Analysis) -> tuple[Promise, dict[str, float]]:
    """Return the promise with every reason, and path of a norm -> the eps it would need where that is not the target's.

    There are four sorts of reasons: known losses of operators, other operations or buffers, other values, and
    operations that treat channels jointly.
    """
    plan, matching, widths = growing.plan, growing.matching, growing.widths
    wide, deep, overriding = _known_losses(growing)
    known = obstacles(Why.BY_NAME, dict.fromkeys((*wide, *overriding, *deep)))
    others = obstacles(Why.OPERATIONS, _other_operations(growing))
    # Other values follow from what an operator or another operation changes, and are not told beside these.
    difference = growing.starts.closing.difference
    followed = obstacles(Why.VALUES, [difference] if difference and not known and not others else [])
    jointly = _joint_operations(growing)
    if not (known or others or followed or jointly):
        jointly = obstacles(Why.GROUPS, _torn_groups(growing))
    others += obstacles(Why.BUFFERS, _other_buffers(matching, widths.expansions, growing.scaled.constants))
    if plan.recalibrate:
        known.append(Obstacle(Why.STATISTICS, "recalibrate estimates the running statistics of BatchNorm anew"))
    wanted = needed_eps(matching.source.trace, growing.norms, matching.blocks.source_name)
    jointly += eps_obstacles(wanted, growing.norms, matching.target.trace, matching.target.model)
    if known or others or followed or jointly:
        # Nothing is an accident that an operator known to lose the function may have brought about.
        deeper: Section = "depth" if matching.blocks.new else "target"
        others = blamed(others, None if wide or deep else "target")
        jointly = blamed(jointly, None if wide else "width" if widths.changes else deeper)
        return Promise("lossy", (*known, *others, *blamed(followed, deeper), *jointly)), {}
    told = getattr(plan.width, "eps", "kept") == "told"
    shifts = [] if told else eps_shifts(growing.norms, wanted)
    shifts += renormed_shifts(growing.starts.closing.handing.norms)
    return Promise("exact up to eps" if shifts else "exact", tuple(obstacles(Why.EPS, shifts))), wanted


def _other_operations(growing: Analysis) -> list[str]:
    """Return a line for modules that run other operations, or the same with numbers that no weight makes up for."""
    stands_for = {path: dict(entries) for path, entries in growing.scaled.numbers.items()}
    for norm in growing.norms:
        stands_for.setdefault(norm.module, {}).update(growing.lockstep.told_eps(norm))
    return growing.lockstep.differences(stands_for)


def _joint_operations(growing: Analysis) -> list[Obstacle]:
    """Return the obstacles of operations that treat new channels jointly with others, so that their result changes."""
    matching, widths = growing.matching, growing.widths
    blocks, target, expansions = matching.blocks, matching.target.trace, widths.of_target
    found = joint_obstacles(target, expansions, blocks.is_new, growing.scaled)
    found += other_norm_groups(matching.source.trace, target, expansions, blocks.source_name, blocks.is_new)
    found += stopped_blanks(widths.blanks.values(), matching.ignored)
    found += read_in_several_ways(target, expansions, growing.scaled.copied, widths.blanks)
    if growing.plan.second is not None:
        grown = frozenset(group for group, expansion in expansions.items() if not expansion.is_identity)
        found += obstacles(Why.TWO_SOURCES, grouped(mixed_halves(target, grown, growing.scaled)))
    return found


def _torn_groups(growing: Analysis) -> list[str]:
    """Return a line for channels that are one group in one model and several in the other."""
    matching = growing.matching
    old = [name for name in matching.paired if not matching.blocks.is_new(name)]
    counts_as = matching.counts_as if growing.widths.changes else {**growing.starts.counts_as, **matching.counts_as}
    return torn_groups(matching.paired, old, untied(matching, counts_as))


def _known_losses(growing: Analysis) -> tuple[list[str], list[str], list[str]]:
    """Return why operators that have something to do are known to lose the function: of width, depth and overrides."""
    wider = any(not expansion.is_identity for expansion in growing.widths.expansions.values())
    wide = [growing.plan.width] if wider else []
    deep = [growing.plan.depth] if growing.matching.blocks.new else []
    return _losses(wide), _losses(deep), _losses(growing.sections.values())


def _losses(sections: Iterable[Width | Depth | None]) -> list[str]:
    return [section.loss for section in sections if section and section.loss]


def _other_buffers(
    matching: Matching, expansions: Mapping[GroupPair, Expansion], made_up_for: Collection[str]
) -> list[str]:
    """Return a line for each buffer that the target's constructor fills with other values than growth would need.

    Checkpoints do not hold such buffers, so that growth cannot write them. Weights make up for those in `made_up_for`.
    """
    old = dict(matching.source.model.named_buffers(remove_duplicate=False))
    found = []
    for name, buffer in constants_of(matching.target.model).items():
        if name in made_up_for or name not in matching.paired or matching.blocks.is_new(name):
            continue
        expected = old[matching.blocks.source_name(name)]
        trace, axes = matching.target.trace, matching.paired[name]
        maps = [axis_map(axis, expansions, consumed(trace, axis, name, dim)) for dim, axis in enumerate(axes)]
        expected = (
            split_evenly(expected, maps) if any(axis.consumes for axis in maps) else copy_positions(expected, maps)
        )
        if expected.shape != buffer.shape or not bool((expected == buffer).all()):
            found.append(f"{name}: {matching.target.library.name} fills this buffer with other values in the target")
    return found
