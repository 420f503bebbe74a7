"""The arms that a comparison trains: plans, variants and baselines, each for several lengths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from growtool.checkpoint import open_checkpoint
from growtool.checkpoint.beside import OPTIMIZER
from growtool.errors import PlanError
from growtool.finetune.prepare import teacher_macs
from growtool.growing.optimizer import find_state
from growtool.workflows.compare.arms import Arm, grown_arms, scratch_arms, source_arm
from growtool.workflows.compare.budget import Budget
from growtool.workflows.compare.study import Study
from growtool.workflows.compare.variant import PLAIN, Variant


def lineup(study: Study, per_epoch: int, source_macs: int | None) -> list[Arm]:
    """Return the arms: each plan with each variant for each budget, and the baselines.

    Scratch trains for each budget, for each budget plus the cost of the source, and for its own budgets. The source
    trains for as many updates as each budget gives, and for as many MACs as the most costly plan takes within it.

    Args:
        study: what to compare.
        per_epoch: updates of one epoch.
        source_macs: MACs that training the source has cost; None if they are not known.

    Raises:
        PlanError: a plan cannot be carried out, or the checkpoint that an arm starts from is missing.
        CheckpointError: the source or a teacher cannot be read.
    """
    batch, cost = study.config.batch_size, source_macs or 0

    def steps(arm: Arm, budget: Budget) -> int:
        return budget.steps(updates_per_epoch=per_epoch, batch_macs=arm.training_macs(batch))

    plans = grown_arms(study.source, study.plans)
    variants = [_decided(study, variant, plans[0]) for variant in study.every_variant]
    ways = [replace(arm, name=arm.name + fields["variant"].suffix, **fields) for arm in plans for fields in variants]
    plain = [way for way in ways if way.variant == PLAIN]
    arms = [
        arm
        for way in ways
        for arm in _lengths(replace(way, sunk=way.sunk + cost), (steps(way, budget) for budget in study.budgets))
    ]
    for fresh in scratch_arms(plain) if "scratch" in study.baselines else ():
        short, more = [steps(fresh, budget) for budget in study.budgets], round(cost / fresh.training_macs(batch))
        own = [steps(fresh, budget) for budget in study.scratch_budgets]
        arms += _lengths(fresh, [*short, *(length + more for length in short), *own])
    if "source" in study.baselines:
        source = replace(source_arm(study.source), sunk=cost, **variants[0])
        short = [steps(source, budget) for budget in study.budgets]
        most = [max(way.training_macs(steps(way, budget) * batch) for way in plain) for budget in study.budgets]
        costly = [max(n, macs // source.training_macs(batch)) for n, macs in zip(short, most, strict=True)]
        arms += _lengths(source, [*short, *costly])
    return arms


def _lengths(way: Arm, steps: Iterable[int]) -> list[Arm]:
    """Return a copy of an arm for each number of updates, the shortest first."""
    return [replace(way, steps=length) for length in sorted(set(steps))]


def _decided(study: Study, variant: Variant, first: Arm) -> dict[str, Any]:
    """Return the fields of an arm that a variant decides: its teacher, and the optimizer state that it starts from.

    Raises:
        CheckpointError: the teacher cannot be read.
        PlanError: it shall start from the state of the source's optimizer, and there is none; `first` names the arm.
    """
    config, decided = study.config_of(variant), dict[str, Any](variant=variant)
    if config.kd_teacher is not None:
        decided |= {"teacher_macs": teacher_macs(config), "teacher": open_checkpoint(config.kd_teacher).sha256()}
    if config.carry_optimizer:
        decided["carried"] = find_state(study.source.path.parent)
        if decided["carried"] is None:
            raise PlanError(
                f"{first.name}{variant.suffix}: carry_optimizer: found no {OPTIMIZER} beside {study.source.name}, "
                "expected a checkpoint that `growtool finetune` wrote; drop the option"
            )
    return decided
