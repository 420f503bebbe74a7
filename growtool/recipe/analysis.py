"""What a plan does to two matched models, decided before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from growtool.algebra.rewrite import RescaledNorm
from growtool.plan.schema import Plan
from growtool.plan.width import Width
from growtool.prove.lockstep import Lockstep
from growtool.prove.scales.scaling import Scaling
from growtool.recipe.blocks.starts import BlockInit, block_init_of
from growtool.recipe.matching import Matching
from growtool.recipe.scaled import scaling_of
from growtool.recipe.widths.expand import Widths, expand_widths
from growtool.recipe.widths.overrides import width_sections


@dataclass(frozen=True)
class Analysis:
    """What a plan does to two matched models.

    Attributes:
        plan: says the operators.
        matching: source and target side by side.
        starts: how new blocks are closed.
        widths: how channels grow.
        sections: tensors that grow by an override.
        scaled: factors that growth brings in, and the weights that make up for them.
        lockstep: both passes side by side, the new blocks closed.
    """

    plan: Plan
    matching: Matching
    starts: BlockInit
    widths: Widths
    sections: Mapping[str, Width]
    scaled: Scaling
    lockstep: Lockstep

    @property
    def norms(self) -> tuple[RescaledNorm, ...]:
        """The norms whose gain makes up for blanks or copies, and whose eps would have to change for it."""
        return (*self.scaled.norms, *self.widths.norms)

    @classmethod
    def by(cls, plan: Plan, matching: Matching) -> Analysis:
        """Decide what the plan does.

        Raises:
            PlanError: channels or blocks cannot grow as the plan says; every problem found.
        """
        starts = block_init_of(plan.depth, matching)
        lockstep = Lockstep(
            matching.source.trace,
            matching.target.trace,
            matching.blocks.source_name,
            matching.ignored,
            starts.closing.dropped,
            matching.shortcuts,
        )
        widths = expand_widths(plan, matching, lockstep, starts)
        return cls(
            plan=plan,
            matching=matching,
            starts=starts,
            widths=widths,
            sections=width_sections(plan, matching, widths),
            scaled=scaling_of(plan, matching, lockstep, widths.of_target, starts),
            lockstep=lockstep,
        )
