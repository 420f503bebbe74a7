"""What a matched pair of models and its expansions promise, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.algebra.expansion import Expansion, axis_map
from growtool.algebra.promise import Promise, ambiguous_parameters, different_operations, uneven_mixings
from growtool.coupling import Growth, torn_groups
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.recipe.matching import Matching


def promise_of(plan: Plan, matching: Matching, expansions: Mapping[Growth, Expansion]) -> Promise:
    """`exact`, or `lossy` with every reason."""
    source, target = matching.source.coupling, matching.target.coupling
    reasons = _operator_losses(plan, matching, expansions)
    reasons += different_operations(source, target, matching.blocks.source_name, matching.ignored)
    reasons += uneven_mixings(target, {growth.target: e for growth, e in expansions.items()}, matching.blocks.is_new)
    reasons += ambiguous_parameters(target, {growth.target: e for growth, e in expansions.items()})
    if not reasons:
        old = [name for name in matching.paired if not matching.blocks.is_new(name)]
        reasons = torn_groups(matching.paired, old, matching.same)
    reasons += _other_buffers(matching, expansions)
    if plan.recalibrate:
        reasons.append("recalibrate estimates the running statistics of BatchNorm anew")
    return Promise("lossy", tuple(reasons)) if reasons else Promise("exact")


def _operator_losses(plan: Plan, matching: Matching, expansions: Mapping[Growth, Expansion]) -> list[str]:
    wider = any(not expansion.is_identity for expansion in expansions.values())
    losses = []
    for section, used in ((plan.width, wider), (plan.depth, bool(matching.blocks.new))):
        if section is not None and used:
            losses.append(OPERATORS[section.operator].implementation().loss(section))
    return [loss for loss in losses if loss]


def _other_buffers(matching: Matching, expansions: Mapping[Growth, Expansion]) -> list[str]:
    """Buffers that no checkpoint holds: the constructor fills them, and growth needs the same values there."""
    target = matching.target.model
    stored = set(target.state_dict())
    old = dict(matching.source.model.named_buffers(remove_duplicate=False))
    found = []
    for name, buffer in target.named_buffers(remove_duplicate=False):
        if name in stored or name not in matching.paired or matching.blocks.is_new(name):
            continue
        expected = old[matching.blocks.source_name(name)]
        for dim, axis in enumerate(matching.paired[name]):
            expected = expected.index_select(dim, axis_map(axis, dict(expansions), frozenset()).index)
        if expected.shape != buffer.shape or not bool((expected == buffer).all()):
            found.append(f"{name}: timm fills this buffer with other values in the target")
    return found
