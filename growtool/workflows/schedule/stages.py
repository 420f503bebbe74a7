"""The kinds of stages: each starts from a checkpoint, writes a folder, and leaves a checkpoint for the next stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from growtool.checkpoint import Checkpoint, build, open_checkpoint
from growtool.checkpoint.beside import OPTIMIZER
from growtool.checkpoint.documents import read_document
from growtool.finetune.config import RunConfig
from growtool.finetune.options.merging import RUN_CONFIG, Layer, make_config
from growtool.finetune.state.records import Progress
from growtool.plan import LoadedPlan
from growtool.workflows.schedule.rate import Course, Span

PREVIOUS = "previous"  # name of a teacher: the checkpoint before the latest growth


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A stage that is complete.

    Attributes:
        number: from 1.
        kind: `train` or `grow`.
        digest: of the stage in the file; on resuming it shows whether the file has changed.
        folder: that the stage wrote, relative to the schedule's folder.
        checkpoint: that the next stage starts from, likewise.
        steps: updates of the stage.
        macs: multiply-accumulates spent on training.
        seconds: duration without interruptions.
        parameters: of the model after the stage, as a count.
        top1: accuracy in percent of the checkpoint it leaves; None if nothing was evaluated.
    """

    number: int
    kind: str
    digest: str
    folder: str
    checkpoint: str
    steps: int
    macs: int
    seconds: float
    parameters: int
    top1: float | None


@dataclass(frozen=True, slots=True)
class Site:
    """The surroundings of a stage.

    Attributes:
        root: the schedule's folder.
        source: the checkpoint to start from.
        teacher: the checkpoint before the latest growth, or the first one.
        progress: watches training.
        course: the rate over all stages; None if each stage has its own, or while it is not known yet.
        foreseen_teacher: the checkpoint before the latest growth that is foreseen; None if none is, or for a run.
    """

    root: Path
    source: str | Path
    teacher: str | Path
    progress: Progress | None = None
    course: Course | None = None
    foreseen_teacher: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Train:
    """A stage that fine-tunes.

    Attributes:
        number: its place in the schedule, from 1.
        digest: of the stage in the file.
        place: in the file: path, line, column and key.
        options: as the file gives them.
    """

    number: int
    digest: str
    place: str
    options: Layer

    @property
    def folder(self) -> str:
        """The name of the folder that it writes."""
        return f"{self.number:02d}-train"

    def options_with(self, *, state: bool) -> Layer:
        """Return the options for a start with or without optimizer state; a state that is there is carried unasked."""
        if "carry_optimizer" in self.options or self.options.get("lora_rank"):
            return self.options
        options = {name: value for name, value in self.options.items() if state or name != "new_state"}
        return Layer(options | {"carry_optimizer": state}, self.options.places)

    def open(self, path: str | Path) -> Checkpoint:
        """Open a checkpoint that says itself which model it is of."""
        return open_checkpoint(path)

    def foresee(self, source: Checkpoint, site: Site) -> tuple[Checkpoint, Span]:
        """Return the same model, with the class names that training gives it, and the updates.

        Raises:
            PlanError: options or data do not fit the model.
            CheckpointError: the teacher cannot be opened.
        """
        from growtool.finetune.parallel.distributed import World
        from growtool.finetune.prepare import foresee

        named = self.options.get("kd_teacher")
        if named not in (None, PREVIOUS):
            open_checkpoint(named)
        teacher = site.foreseen_teacher if named == PREVIOUS else None
        found = foresee(self._config(site), source, World.from_environment(), teacher)
        return replace(source, spec=found.spec), Span(self.number, found.steps, found.per_epoch)

    def run(self, site: Site) -> StageRecord:
        """Train in `NN-train/`, from the optimizer's state of the stage before if there is one that fits."""
        from growtool.finetune.run import finetune

        config = self._config(site)
        if site.progress is not None and self.options.get("new_state", config.new_state) != config.new_state:
            site.progress.noticed(
                f"{self.place}: new_state: no optimizer's state that fits comes from the stage before"
            )
        result = finetune(config, site.progress)
        return StageRecord(
            number=self.number,
            kind="train",
            digest=self.digest,
            folder=self.folder,
            checkpoint=f"{self.folder}/last",
            steps=result.steps,
            macs=result.macs,
            seconds=result.seconds,
            parameters=result.parameters,
            top1=result.last.top1,
        )

    def done(self, root: Path) -> Span:
        """Return the updates of this stage from the configuration that its run wrote.

        Raises:
            CheckpointError: the configuration cannot be read.
        """
        resolved = self._settings(root)["resolved"]
        return Span(self.number, resolved["steps"], resolved["steps_per_epoch"])

    def unfit(self, course: Course, root: Path) -> Iterator[str]:
        """Yield a problem for each option by which this stage has trained under another rate."""
        if not (root / self.folder / RUN_CONFIG).is_file():
            return
        before = self._settings(root)
        for name, value in course.options(self.number).items():
            if before.get(name) != value:
                yield (
                    f"trained with {name} {before.get(name)} in {root / self.folder}, and by `rate` and the budgets of "
                    f"all stages it is {value} now; restore these, or run the changed schedule into another folder"
                )

    def _settings(self, root: Path) -> dict[str, Any]:
        from growtool.finetune.state.folder import RunFolder
        from growtool.finetune.state.resume import read_settings

        return read_settings(RunFolder(root / self.folder))

    def _config(self, site: Site) -> RunConfig:
        options = self.options_with(state=_same_optimizer(site.source, str(self.options.get("opt", "adamw"))))
        own: dict[str, Any] = {"checkpoint": site.source, "output": site.root / self.folder, "resume": "auto"}
        own |= site.course.options(self.number) if site.course is not None else {}
        own |= {"kd_teacher": site.teacher} if options.get("kd_teacher") == PREVIOUS else {}
        return make_config(dict(options), own)


@dataclass(frozen=True, slots=True)
class Grow:
    """A stage that grows by a plan; for the other fields see `Train`."""

    number: int
    digest: str
    place: str
    plan: LoadedPlan

    def open(self, path: str | Path) -> Checkpoint:
        """Open a checkpoint; the plan may say which model it is of."""
        from growtool.growing.source import open_planned

        return open_planned(path, [self.plan.plan])

    def foresee(self, source: Checkpoint, site: Site) -> tuple[Checkpoint, None]:
        """Return the target as far as it is known before it is written; a growth takes no updates.

        Raises:
            CheckpointError: the plan says that `source` holds another model.
            PlanError: the target cannot be reached from `source`, or only with an unintended loss of the function, or
                the images that growth would see cannot be used.
        """
        from growtool.calibration import open_images
        from growtool.recipe import resolve
        from growtool.recipe.choosing.consent import require_consent

        plan = self.plan.plan
        source = replace(source, spec=source.spec.with_plan_args(plan.model, plan.model_args, where=source.name))
        recipe = resolve(plan, source)
        require_consent(recipe)
        if plan.data is not None and (plan.recalibrate or plan.seeing):
            open_images(plan.data, recipe.models[1], label_names=source.spec.label_names, checkpoint=source.name)
        form = recipe.form.form if recipe.form is not None and recipe.in_templates else None
        return replace(source, spec=recipe.target, stored=recipe.infos, form=form), None

    def unfit(self, course: Course, root: Path) -> Iterator[str]:
        """Yield a problem if this stage would grow while the rate rises or falls."""
        yield from course.problems_of_growth(self.number)

    def run(self, site: Site) -> StageRecord:
        """Grow into `NN-grow/`; with several processes, the first one does it."""
        import torch

        from growtool.finetune.parallel.distributed import World, joined

        folder, start, world = f"{self.number:02d}-grow", time.perf_counter(), World.from_environment()
        with joined(world, torch.device("cpu")):
            if world.is_main:
                self._grow(site, site.root / folder)
            world.wait()
        grown = open_checkpoint(site.root / folder)
        return StageRecord(
            number=self.number,
            kind="grow",
            digest=self.digest,
            folder=folder,
            checkpoint=folder,
            steps=0,
            macs=0,
            seconds=time.perf_counter() - start,
            parameters=sum(parameter.numel() for parameter in build(grown.spec).parameters()),
            top1=None,
        )

    def _grow(self, site: Site, out: Path) -> None:
        from growtool.growing import grow
        from growtool.growing.optimizer import can_grow, find_state
        from growtool.recipe import resolve

        recipe = resolve(self.plan.plan, self.open(site.source))
        state = find_state(Path(site.source))
        optimizer = state if state and can_grow(recipe, state) else None
        told = site.progress.noticed if site.progress is not None else lambda remark: None
        grow(recipe, self.plan, out, force=True, optimizer=optimizer, told=told)


Stage = Train | Grow


def _same_optimizer(checkpoint: str | Path, name: str) -> bool:
    """Return whether the state of an optimizer lies beside a checkpoint: from the stage before, or grown with it."""
    from growtool.finetune.update.optimizer import optimizer_class

    path = Path(checkpoint) / OPTIMIZER
    if not path.is_file():
        return False
    return bool(
        read_document(path, lambda held: held["optimizer"], expected="an optimizer's state") == optimizer_class(name)
    )
