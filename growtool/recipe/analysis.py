"""What a plan does to two models that have been matched, found before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from growtool.plan.schema import Plan
from growtool.plan.width import Width
from growtool.prove.scale_absorption import AbsorbedScale
from growtool.prove.standardised import Rescaled
from growtool.recipe.block_init import BlockInit, block_init_of
from growtool.recipe.matching import Matching
from growtool.recipe.overrides import width_sections
from growtool.recipe.rewriting import copied_weights, factors_moved
from growtool.recipe.widths import Widths, expand_widths


@dataclass(frozen=True)
class Analysis:
    """What a plan does to two models, before a weight is read.

    Attributes:
        plan: says the operators.
        matching: source and target side by side.
        starts: how new blocks are closed.
        widths: how channels grow.
        sections: tensors that grow by an override.
        rescaled: standardised weights whose columns are copied, by module.
        moved: factors that the layers behind make up for, by module.
    """

    plan: Plan
    matching: Matching
    starts: BlockInit
    widths: Widths
    sections: Mapping[str, Width]
    rescaled: Mapping[str, Rescaled]
    moved: Mapping[str, AbsorbedScale]

    @classmethod
    def by(cls, plan: Plan, matching: Matching) -> Analysis:
        """What the plan does.

        Raises:
            PlanError: channels or blocks cannot grow as it says; every problem found.
        """
        starts = block_init_of(plan.depth, matching)
        widths = expand_widths(plan, matching, starts.closed)
        return cls(
            plan=plan,
            matching=matching,
            starts=starts,
            widths=widths,
            sections=width_sections(plan, matching, widths),
            rescaled=copied_weights(plan, matching, widths),
            moved=factors_moved(plan, matching),
        )
