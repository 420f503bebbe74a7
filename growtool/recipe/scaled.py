"""Which weights make up for the factors that a plan brings in (`prove.scales.scaling`), asked of two matched models."""

from __future__ import annotations

from collections.abc import Mapping

from growtool.algebra.expansion import Expansion
from growtool.library.building import constants_of
from growtool.plan.schema import Plan
from growtool.prove.lockstep import Lockstep
from growtool.prove.scales.scaling import Scaling, scaling
from growtool.recipe.blocks.starts import BlockInit
from growtool.recipe.matching import Matching
from growtool.trace import ChannelGroup, PairedAxis

_ONE = PairedAxis(((),))  # the axis of a single position, for parameters without dimensions


def scaling_of(
    plan: Plan,
    matching: Matching,
    lockstep: Lockstep,
    expansions: Mapping[ChannelGroup, Expansion],
    starts: BlockInit,
) -> Scaling:
    """Return what makes up for the factors that growth brings in; nothing does if two sources become one."""
    lossy = plan.width is None or plan.width.loss is not None
    found = scaling(lockstep, _scalable(matching, starts), expansions, _ratios(matching), copying=not lossy)
    return found if plan.second is None else found.unused()


def _ratios(matching: Matching) -> dict[str, float]:
    """Return constant of one number -> by what factor the target's is larger than the source's: `sqrt(width)`, say.

    A constant is a buffer that the constructor fills and no checkpoint holds. Those that stay are left out.
    """
    before = constants_of(matching.source.model)
    ratios = {}
    for name, buffer in constants_of(matching.target.model).items():
        origin = before.get(matching.blocks.source_name(name))
        if origin is None or not origin.numel() == buffer.numel() == 1:
            continue
        if float(origin) * float(buffer) > 0 and not origin.equal(buffer):
            ratios[name] = float(buffer.double() / origin.double())
    return ratios


def _scalable(matching: Matching, starts: BlockInit) -> dict[str, PairedAxis]:
    """Return target tensor that a factor may multiply -> its first axis.

    They are the parameters that grow from one of the source, and constants of zeros, which are any multiple of
    themselves. Parameters that have to pass on what they receive are left out.
    """
    model, axes = matching.target.model, dict[str, PairedAxis]()
    given = starts.identity_layers | starts.closing.handing.unit_affine.keys()
    zeros = [name for name, buffer in constants_of(model).items() if not bool(buffer.any())]
    for name in (*(name for name, _ in model.named_parameters(remove_duplicate=False)), *zeros):
        if name in matching.paired and name not in given:
            axes[name] = next(iter(matching.paired[name]), _ONE)
    return axes
