"""The notes below the tables of a comparison: how to read them."""

from __future__ import annotations

from collections.abc import Iterator

from growtool.plan.schema import MIRROR
from growtool.report import units
from growtool.workflows.compare.compare import Comparison

_SCRATCH = (
    "From scratch the targets train for the same lengths, and for each with the source's cost on top{own}. What is "
    "saved is read at equal accuracy against them, negative where it costs more. Between neighbouring lengths accuracy "
    "is taken as linear in the logarithm of MACs, a longer run that ends lower than a shorter one is passed over, and "
    "nothing is read beyond what was measured: what came to more than an accuracy at its cheapest costs at most that, "
    "which bounds what is saved. A saving is that of the means over seeds; its deviation is over seeds, "
    "where the curves of every seed reach that far."
)


def notes(comparison: Comparison) -> list[str]:
    """Return the notes, a paragraph each."""
    study = comparison.study
    budgets = " and ".join(map(str, study.budgets))
    said = [
        f"Every arm trains for {budgets}, each length a run with a schedule of its own, with the same options, data "
        f"order and augmentation per seed ({study.seeds} seed{'s' if study.seeds > 1 else ''}); accuracies are top-1 "
        "in percent on the validation images, mean ± standard deviation over seeds, at the last evaluation within each "
        "part of the run. Training counts three forward passes an image; seconds are those of training and "
        "evaluation, beside whatever else ran.",
        *cost_notes(comparison),
    ]
    said += [
        f"Arms with +{variant.name} train with "
        + ", ".join(f"{key}: {value}" for key, value in variant.options.items())
        + " on top."
        for variant in study.variants
    ]
    if len(study.rates) == 1:
        said.append(f"Learning rate: {study.rates[0]:g} for every arm.")
    elif study.rates:
        rates = ", ".join(f"{rate:g}" for rate in study.rates)
        said.append(
            f"Learning rates: each arm tried {rates} with seed 0, at each of its lengths, and kept the one with the "
            "best final accuracy, so its accuracy of seed 0 is chosen on the validation images."
        )
    said += _of_baselines(comparison)
    said += [f"Failed: {failed.trial.name}: {failed.reason}" for failed in comparison.failed]
    return said


def cost_notes(comparison: Comparison) -> Iterator[str]:
    """Yield sentences on what the MACs of all training include."""
    study, known = comparison.study, comparison.source_macs
    if known is None:
        yield (
            "What training the source has cost is not known (--source-macs or --source-epochs says it), so total MACs "
            "count from growth on."
        )
    else:
        said = (study.source_macs, study.source_epochs) != (None, None)
        told = "" if said else ", as the records beside it tell"
        yield f"Total MACs hold {units.count(known)} of training the source{told}, for all that starts from it."
    ways = {result.arm.name: result.arm for result in comparison.results if result.arm.plan and result.arm.second}
    for name, arm in ways.items():
        if arm.plan and arm.plan.plan.second != MIRROR:
            told = units.count(arm.sunk - (known or 0))
            yield f"Those of {name} hold {told} of training its second source, as the records beside it tell."
    if any(result.arm.teacher for result in comparison.results):
        yield "The passes of a teacher are counted, what training it has cost is not."


def _of_baselines(comparison: Comparison) -> Iterator[str]:
    study = comparison.study
    if "scratch" in study.baselines:
        yield _SCRATCH.format(own="".join(f", and for {budget}" for budget in study.scratch_budgets))
        yield from _targets(comparison)
    if "source" in study.baselines:
        yield (
            "The arm source trains the source on as it is: for each budget, and for as many MACs as the most costly "
            "plan then takes."
        )


def _targets(comparison: Comparison) -> Iterator[str]:
    """If there are several targets, yield a sentence on which plans lead to which."""
    plans: dict[str, list[str]] = {}
    scratch: dict[str, str] = {}
    for arm in (result.arm for result in comparison.results):
        if arm.from_scratch:
            scratch[arm.target_key] = arm.name
        elif arm.plan and arm.variant is None and arm.name not in plans.setdefault(arm.target_key, []):
            plans[arm.target_key].append(arm.name)
    if len(scratch) > 1:
        told = (f"{name} that of {' and '.join(plans.get(key, []))}" for key, name in scratch.items())
        yield f"From scratch the target of each plan trains: {', '.join(told)}."
