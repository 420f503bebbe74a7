"""Which weights make up for what a plan brings in (`prove.scales.scaling`), asked of two matched models."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.algebra.expansion import Expansion
from growtool.operators.table import OPERATORS
from growtool.plan.schema import Plan
from growtool.prove.lockstep import Lockstep
from growtool.prove.scales.scaling import Scaling, scaling
from growtool.recipe.blocks.starts import BlockInit
from growtool.recipe.matching import Matching
from growtool.trace import ChannelGroup, PairedAxis

_ONE = PairedAxis(((),))  # of one position


def scaling_of(
    plan: Plan,
    matching: Matching,
    lockstep: Lockstep,
    expansions: Mapping[ChannelGroup, Expansion],
    starts: BlockInit,
) -> Scaling:
    """What makes up for the factors that growth brings in; nothing does where two sources become one."""
    lossy = plan.width is None or OPERATORS[plan.width.operator].implementation().loss(plan.width)
    found = scaling(lockstep, _scalable(matching, starts), expansions, _ratios(matching), copying=not lossy)
    return found if plan.second is None else found.unused()


def lockstep_of(matching: Matching, starts: BlockInit) -> Lockstep:
    """Both passes side by side, the new blocks closed."""
    source, target = matching.source.trace, matching.target.trace
    return Lockstep(source, target, matching.blocks.source_name, matching.ignored, starts.dropped, matching.shortcuts)


def _ratios(matching: Matching) -> dict[str, float]:
    """Constants of one number that the constructor makes another in the target, times which: `sqrt(width)`, say."""
    old, new = (model.model for model in (matching.source, matching.target))
    stored, before = new.state_dict().keys(), dict(old.named_buffers(remove_duplicate=False))
    found = {}
    for name, buffer in new.named_buffers(remove_duplicate=False):
        origin = before.get(matching.blocks.source_name(name))
        if name in stored or origin is None or origin.is_meta or buffer.is_meta:
            continue
        if origin.numel() == buffer.numel() == 1 and float(origin) * float(buffer) > 0 and not origin.equal(buffer):
            found[name] = float(buffer.double() / origin.double())
    return found


def _scalable(matching: Matching, starts: BlockInit) -> dict[str, PairedAxis]:
    """The first axis of each parameter of the target that one of the source becomes, and of constants that are zero."""
    model, found = matching.target.model, dict[str, PairedAxis]()
    without = matching.bridges.keys() | starts.passing | starts.handing.plain.keys()
    stored = model.state_dict().keys()
    constant = ((n, b) for n, b in model.named_buffers() if n not in stored and not b.is_meta)
    zeros = [name for name, buffer in constant if not bool(buffer.any())]
    for name in (*(name for name, _ in model.named_parameters(remove_duplicate=False)), *zeros):
        block = matching.blocks.block_of(name)
        made = name in without or (block is not None and block[1].start == "identity")
        if name in matching.paired and not made:
            found[name] = next(iter(matching.paired[name]), _ONE)
    return found
