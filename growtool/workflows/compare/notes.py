"""The notes below the tables of a comparison: how to read them."""

from __future__ import annotations

from collections.abc import Iterator

from growtool.plan.schema import MIRROR
from growtool.report import units
from growtool.workflows.compare.compare import Comparison
from growtool.workflows.compare.variant import PLAIN

_SCRATCH = (
    "From scratch, each target trains for the same lengths, and for each of them plus the cost of the source{own}. A "
    "saving compares costs at equal accuracy; it is negative if growing costs more. Between neighbouring lengths, "
    "accuracy is taken as linear in the logarithm of MACs. A longer run that ends lower than a shorter one is left "
    "out. Nothing is extrapolated: an arm that has more than an accuracy at its lowest cost has it for at most this "
    "cost, which bounds the saving. A saving is that of the means over seeds. Its deviation is over seeds, if the "
    "curves of every seed reach that far."
)


def notes(comparison: Comparison) -> list[str]:
    """Return the notes, a paragraph each."""
    study = comparison.study
    budgets = " and ".join(map(str, study.budgets))
    said = [
        f"Every arm trains for {budgets}. Each length is a run with its own schedule; options, data order and "
        f"augmentation are the same per seed ({study.seeds} seed{'s' if study.seeds > 1 else ''}). Accuracies are "
        "top-1 in percent on the validation images, mean ± standard deviation over seeds, at the last evaluation "
        "within each part of the run. Training counts three forward passes per image. Seconds are those of training "
        "and evaluation, beside whatever else ran.",
        *cost_notes(comparison),
    ]
    said += [
        f"Arms with {variant.suffix} train with "
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
            "The cost of training the source is not known (give --source-macs or --source-epochs), so total MACs count "
            "from growth on."
        )
    else:
        said = (study.source_macs, study.source_epochs) != (None, None)
        told = "" if said else " (by the records beside it)"
        yield f"Total MACs include {units.count(known)} for training the source{told}, in all arms that start from it."
    ways = {result.arm.name: result.arm for result in comparison.results if result.arm.plan and result.arm.second}
    for name, arm in ways.items():
        if arm.plan and arm.plan.plan.second != MIRROR:
            told = units.count(arm.sunk - (known or 0))
            yield f"Those of {name} include {told} for training its second source (by the records beside it)."
    if any(result.arm.teacher for result in comparison.results):
        yield "The forward passes of a teacher are counted; the cost of training it is not."


def _of_baselines(comparison: Comparison) -> Iterator[str]:
    study = comparison.study
    if "scratch" in study.baselines:
        yield _SCRATCH.format(own="".join(f", and for {budget}" for budget in study.scratch_budgets))
        yield from _targets(comparison)
    if "source" in study.baselines:
        yield (
            "The arm source trains the source without growing it: for each budget, and for as many MACs as the most "
            "costly plan then takes."
        )


def _targets(comparison: Comparison) -> Iterator[str]:
    """If there are several targets, yield a sentence on which plans lead to which."""
    plans: dict[str, list[str]] = {}
    scratch: dict[str, str] = {}
    for arm in (result.arm for result in comparison.results):
        if arm.from_scratch:
            scratch[arm.target_key] = arm.name
        elif arm.plan and arm.variant == PLAIN and arm.name not in plans.setdefault(arm.target_key, []):
            plans[arm.target_key].append(arm.name)
    if len(scratch) > 1:
        told = (f"{name} trains the target of {' and '.join(plans.get(key, []))}" for key, name in scratch.items())
        yield f"From scratch, {', '.join(told)}."
