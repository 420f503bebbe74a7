"""`growtool compare`: grow one checkpoint in several ways, train all of them alike, and compare cost and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import yaml

from growtool.checkpoint import build, open_checkpoint
from growtool.errors import PlanError
from growtool.finetune.data.sources import open_splits
from growtool.finetune.options.defaults import Choice, choose, in_words
from growtool.finetune.options.merging import merge
from growtool.finetune.options.settings import default_workers
from growtool.finetune.parallel.distributed import World
from growtool.finetune.update.growth_report import grown_with_losses
from growtool.finetune.update.model import spec_for
from growtool.images import other_classes, require_readable
from growtool.workflows.compare.arms import Arm
from growtool.workflows.compare.costs import Costs, costs_of
from growtool.workflows.compare.lineup import lineup
from growtool.workflows.compare.results import Outcome, best_rate
from growtool.workflows.compare.savings import Curve, Measured
from growtool.workflows.compare.study import DECIDED, Study, source_cost
from growtool.workflows.compare.trials import Failed, Runner, Trial, options_file


@dataclass(frozen=True)
class ArmResult:
    """An arm and the outcomes of all its trials.

    Attributes:
        arm: what trained.
        lr: the learning rate that it was given, or that it chose with seed 0; None if the recipe decides.
        outcomes: one for each seed, at this rate.
        tried: final accuracy of seed 0 for each learning rate that it could choose.
        failed: trials that did not end.
    """

    arm: Arm
    lr: float | None
    outcomes: tuple[Outcome, ...]
    tried: dict[float, float]
    failed: tuple[Failed, ...]

    @property
    def rate(self) -> float | None:
        """The learning rate that it trained with; None if that is not known."""
        return self.arm.choices["lr"].value if "lr" in self.arm.choices else self.lr


@dataclass(frozen=True)
class Comparison:
    """The results of training all arms of a study.

    Attributes:
        study: the question.
        results: one for each arm; plans first, and the lengths of one way together.
        source_macs: MACs that training the source has cost; None if they are not known.
    """

    study: Study
    results: tuple[ArmResult, ...]
    source_macs: int | None

    @property
    def batch_size(self) -> int:
        """Images of an update."""
        return self.study.config.batch_size

    @property
    def ways(self) -> dict[str, list[ArmResult]]:
        """The arms with outcomes, those of different lengths together under their name."""
        ways: dict[str, list[ArmResult]] = {}
        for result in self.results:
            if result.outcomes:
                ways.setdefault(result.arm.name, []).append(result)
        return ways

    @property
    def failed(self) -> tuple[Failed, ...]:
        """All trials that did not end."""
        return tuple(failed for result in self.results for failed in result.failed)

    @cached_property
    def costs(self) -> Costs:
        """Accuracy against the MACs of all training, and what each way saves over training from scratch."""
        return costs_of(_curves(self.ways, self.batch_size))


def compare(study: Study, told: Callable[[str], None]) -> Comparison:
    """Run every trial that is not done yet; `told` is called with a line for each step.

    Raises:
        PlanError: a plan cannot be carried out, the data are missing or have other classes, or the output holds
            something else. A trial that fails raises nothing: the comparison names it, and the others go on.
    """
    if (processes := World.from_environment().size) > 1:
        raise PlanError(
            f"compare: found {processes} processes, expected one, as each trial gets a process of its own; start it "
            "without torchrun, with --jobs N for N trials at once and a --device for each, e.g. --device cuda:0 "
            "--device cuda:1"
        )
    study.require_possible()
    config = study.config
    images = _training_images(study, told)
    per_epoch = images // config.batch_size
    if per_epoch == 0:
        raise PlanError(
            f"batch_size: found {config.batch_size}, expected at most the {images} training images; lower it"
        )
    source_macs = source_cost(study, images)
    arms = [replace(arm, choices=_choices(study, arm, per_epoch)) for arm in lineup(study, per_epoch, source_macs)]
    _tell_choices(arms, told)
    rates = study.rates or (None,)
    runner = Runner(study, shared_settings(study), told)
    # All folders are checked before the first trial starts, so that no hours are spent on a comparison that cannot end.
    runner.check([_trial(study, arm, seed, lr) for arm in arms for seed in range(study.seeds) for lr in rates])
    _write_options(study)
    with runner:
        first = runner.run([_trial(study, arm, 0, lr) for arm in arms for lr in rates])
        tried = [first[n : n + len(rates)] for n in range(0, len(first), len(rates))]
        chosen = [best_rate(_ended(outcomes)) for outcomes in tried]
        further = [  # no more seeds if seed 0 failed at every rate: there is no rate to use for them
            [_trial(study, arm, seed, lr) for seed in range(1, study.seeds)] if _ended(outcomes) else []
            for arm, lr, outcomes in zip(arms, chosen, tried, strict=True)
        ]
        rest = iter(runner.run([trial for trials in further for trial in trials]))
    others = [[next(rest) for _ in trials] for trials in further]
    results = [_result(*parts) for parts in zip(arms, chosen, tried, others, strict=True)]
    return Comparison(study, tuple(results), source_macs)


def _curves(ways: Mapping[str, Sequence[ArmResult]], batch_size: int) -> list[Curve]:
    """Return a curve for each way; one that starts from a checkpoint has this start as a point, too."""
    curves = []
    for name, lengths in ways.items():
        way = lengths[0].arm
        starts = {outcome.seed: outcome.start for result in lengths for outcome in result.outcomes}
        points = [Measured(way.sunk, 0, starts)] if not way.from_scratch else []
        points += [
            Measured(result.arm.total_macs(batch_size), result.arm.steps, {o.seed: o.final for o in result.outcomes})
            for result in lengths
        ]
        curves.append(Curve(name, way.target_key, way.from_scratch, tuple(points)))
    return curves


def _training_images(study: Study, told: Callable[[str], None]) -> int:
    """Return the number of training images, after checking all data and teachers of the trials against the source.

    Raises:
        PlanError: the images are missing, or they or a teacher have other classes.
        CheckpointError: the source does not have one class name for each logit.
    """
    source, config = study.source, study.config
    spec = spec_for(source.spec, config.num_classes)
    train, held_out, classes = open_splits(config, spec, build(spec, where=source.name), source.name)
    for split in (train, held_out):
        require_readable(split)
    for remark in dict.fromkeys((*train.remarks, *held_out.remarks)):
        told(remark)
    problems = []
    for variant in study.every_variant:
        teacher = study.config_of(variant).kd_teacher
        taught = None if teacher is None else open_checkpoint(teacher).spec.label_names
        if difference := other_classes(classes, taught):
            problems.append(
                f"{variant.place}kd_teacher {teacher}: {difference}, the student's "
                "(label_names in config.json); name a checkpoint trained for the same task"
            )
    if problems:
        raise PlanError(problems)
    return len(train)


def _choices(study: Study, arm: Arm, per_epoch: int) -> dict[str, Choice]:
    """Return the values of options that are not given: the same for all arms, but the rate of fresh weights."""
    rate = study.rates[0] if study.rates else None
    config = study.config_of(arm.variant, rate).model_copy(update={"from_scratch": arm.from_scratch})
    lossy = arm.promise == "lossy" if arm.plan else arm.source is not None and grown_with_losses(arm.source)
    model = build(arm.target, where=arm.name)
    return choose(config, model, lossy=lossy, steps=arm.steps, per_epoch=per_epoch)


def _tell_choices(arms: Sequence[Arm], told: Callable[[str], None]) -> None:
    """Tell each set of chosen values once, with the arms that take it."""
    alike: dict[str, list[str]] = {}
    for arm in arms:
        if arm.choices:
            alike.setdefault(in_words(arm.choices), []).append(arm.title)
    for text, names in alike.items():
        told(f"{', '.join(names)}: {text}")


def _ended(found: Sequence[Outcome | Failed]) -> list[Outcome]:
    return [outcome for outcome in found if isinstance(outcome, Outcome)]


def shared_settings(study: Study) -> dict[str, Any]:
    """Return everything that decides the results of all trials."""
    decisive = {
        key: value for key, value in study.config.as_dict().items() if key not in DECIDED | {"lr", "workers", "plugins"}
    }
    rate = {} if study.rates else {"shared_lr": study.config.lr}
    return decisive | rate | _data(study) | {"source": study.source.sha256()}


def _write_options(study: Study) -> None:
    """Write the files of options that the trials read."""
    study.output.mkdir(parents=True, exist_ok=True)
    for variant in study.every_variant:
        workers = {"workers": default_workers(study.jobs)}
        options = merge(workers, study.options, variant.options, _data(study))
        text = yaml.safe_dump(dict(options), sort_keys=True, allow_unicode=True)
        (study.output / options_file(variant)).write_text(text, encoding="utf-8")


def _data(study: Study) -> dict[str, str]:
    return {"data": str(study.config.data.resolve())}


def _trial(study: Study, arm: Arm, seed: int, lr: float | None) -> Trial:
    rate = f"lr{lr:g}-" if lr is not None else ""
    return Trial(arm, seed, lr, study.output / arm.folder / f"{rate}seed{seed}")


def _result(
    arm: Arm, lr: float | None, tried: Sequence[Outcome | Failed], others: Sequence[Outcome | Failed]
) -> ArmResult:
    every = [*tried, *others]
    return ArmResult(
        arm=arm,
        lr=lr,
        outcomes=tuple(outcome for outcome in _ended(every) if outcome.lr == lr),
        tried={outcome.lr: outcome.final for outcome in _ended(tried) if outcome.lr is not None},
        failed=tuple(found for found in every if isinstance(found, Failed)),
    )
