"""The question of a comparison: plans, options, lengths, seeds and baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.checkpoint import Checkpoint
from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.options.merging import make_config
from growtool.library import spec_from
from growtool.plan import LoadedPlan
from growtool.report.macs import macs_of, training_macs
from growtool.report.trained import recorded_macs
from growtool.workflows.compare.budget import Budget
from growtool.workflows.compare.variant import PLAIN, Variant, undue_options

DECIDED = frozenset("checkpoint output resume force epochs steps macs seed device from_scratch plugins".split())
"""Options of `growtool finetune` that differ between the trials of a comparison, or that no result depends on."""
_OF_GROWTH = ("lr_factors", "carry_optimizer", "new_warmup")  # need a grown checkpoint, as `train: new` does


@dataclass(frozen=True, kw_only=True)
class Study:
    """What to compare.

    Attributes:
        source: the checkpoint that grows.
        plans: the ways of growing it.
        options: of `growtool finetune`, the same for all arms; none of `DECIDED`.
        variants: sets of other options, with which every plan is trained as well.
        output: the folder of the comparison.
        budgets: lengths of training for every arm; each is a run with its own schedule.
        scratch_budgets: more lengths for training from scratch alone.
        seeds: the number of seeds, which are 0, 1, ...
        rates: learning rates; each arm chooses one by the final accuracy of seed 0. Empty leaves the rate to training.
        baselines: what else to train: `scratch`, the targets from scratch; `source`, the source without growth.
        source_epochs: epochs over the same images that the source was trained for; None if the user does not say.
        source_macs: MACs that training the source has cost, as another way to say it.
        plugins: files that register models.
        jobs: the number of trials that run at once.
        devices: torch devices that the trials share.
    """

    source: Checkpoint
    plans: Sequence[LoadedPlan]
    options: Mapping[str, Any]
    output: Path
    budgets: tuple[Budget, ...]
    scratch_budgets: tuple[Budget, ...] = ()
    variants: Sequence[Variant] = ()
    seeds: int = 1
    rates: tuple[float, ...] = ()
    baselines: frozenset[str] = frozenset({"scratch"})
    source_epochs: float | None = None
    source_macs: float | None = None
    plugins: tuple[Path, ...] = ()
    jobs: int = 1
    devices: tuple[str, ...] = ()

    @property
    def config(self) -> RunConfig:
        """The options that all arms share, with their defaults."""
        return self.config_of(PLAIN)

    @property
    def every_variant(self) -> tuple[Variant, ...]:
        """The variants, after the options that all arms share as they are."""
        return (PLAIN, *self.variants)

    def config_of(self, variant: Variant, rate: float | None = None) -> RunConfig:
        """Return the shared options, those of a variant, and a learning rate; later ones win.

        Raises:
            PlanError: an option is missing, has a wrong value, or contradicts another.
        """
        own = {"checkpoint": self.source.address, "output": self.output}
        return make_config(self.options, variant.options, own, {} if rate is None else {"lr": rate})

    def require_possible(self) -> None:
        """Check every option of every variant.

        Raises:
            PlanError: one problem for each mistake.
        """
        problems = []
        if decided := sorted(set(self.options) & DECIDED):
            problems.append(
                f"found the options {', '.join(decided)}, expected none of those that a comparison decides itself "
                f"({', '.join(sorted(DECIDED))}); drop them"
            )
        grown = sorted(name for name in _OF_GROWTH if self.options.get(name))
        grown += ["train"] if self.options.get("train") == "new" else []
        if grown and self.baselines:
            problems.append(
                f"found the options {', '.join(grown)}, which need a grown checkpoint, and the baselines "
                f"{', '.join(sorted(self.baselines))}, which are none; give them in a --variant, or --baseline none"
            )
        if "source" in self.baselines and not _tells_its_model(self.source):
            problems.append(
                f"--baseline source: found that plans say which model {self.source.name} is, and training it as it is "
                "reads no plan; put a config.json beside it that says so, or drop the baseline"
            )
        problems += self._wrong_costs()
        rate = {"lr"} if self.rates else set()
        problems += [problem for variant in self.variants for problem in undue_options(variant, DECIDED | rate)]
        for variant in () if problems else self.every_variant:
            problems += self._unfit(variant)
        if problems:
            raise PlanError(list(dict.fromkeys(problems)))

    def _wrong_costs(self) -> Iterator[str]:
        """Yield the problems with the cost of the source and with the lengths of scratch."""
        said = {"--source-epochs": self.source_epochs, "--source-macs": self.source_macs}
        told = {option: value for option, value in said.items() if value is not None}
        if len(told) > 1:
            yield (
                f"{' and '.join(told)}: found both, expected one of them, as each says what training the source has "
                "cost; drop one"
            )
        for option, value in told.items():
            if not math.isfinite(value):
                yield f"{option}: found {value}, expected a finite number of at least 0"
        if self.scratch_budgets and "scratch" not in self.baselines:
            yield (
                "--scratch-budget: found lengths for training from scratch, and no baseline that does; add --baseline "
                "scratch, or drop the lengths"
            )

    def _unfit(self, variant: Variant) -> Iterator[str]:
        """Yield the problems with the options of a variant, at each learning rate."""
        for rate in self.rates or (None,):
            try:
                self.config_of(variant, rate)
            except PlanError as error:
                yield from (f"{variant.place}{problem}" for problem in error.problems)


def _tells_its_model(source: Checkpoint) -> bool:
    """Whether a checkpoint says all of what its model is, and nothing else does."""
    return bool(source.config) and spec_from(source.config, where=source.name) == source.spec


def source_cost(study: Study, images: int) -> int | None:
    """Return the MACs of training the source: as the user says, in epochs of `images` images, too, or by its records.

    None if neither says it.
    """
    if study.source_macs is not None:
        return round(study.source_macs)
    if study.source_epochs is None:
        return recorded_macs(study.source)
    return training_macs(macs_of(study.source.spec, where=study.source.name), round(study.source_epochs * images))
