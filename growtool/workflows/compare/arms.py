"""The arms of a comparison: each is one way to get a trained model, with one length of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from growtool.checkpoint import Checkpoint, ModelSpec, build, infos_of, write_folder
from growtool.checkpoint.folder import json_text
from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.optimizer_state import OptimizerState
from growtool.finetune.options.defaults import Choice
from growtool.growing import grow, summarise
from growtool.library import library_of
from growtool.plan import LoadedPlan
from growtool.plan.schema import MIRROR
from growtool.recipe import resolve
from growtool.recipe.choosing.consent import require_consent
from growtool.recipe.traced_model import TracedModel
from growtool.report.macs import count_macs, training_macs
from growtool.report.trained import recorded_macs
from growtool.workflows.compare.variant import PLAIN, Variant, names_of, taken_names

_RESERVED = ("scratch", "source")  # the names and folders of baselines begin with these


@dataclass(frozen=True)
class Arm:
    """One way to get a trained model, with one length of training.

    Attributes:
        name: of the way; unique in the comparison together with `steps`.
        target: the model that trains.
        macs: MACs of one forward pass, for one image.
        parameters: of the target, as a count.
        promise: what growing keeps; empty if nothing grows.
        steps: updates to train for; 0 until it is set.
        source: the checkpoint whose weights the arm starts from; None from scratch.
        plan: how the source grows; None trains the source as it is.
        variant: the options of training that differ from those that all arms share.
        teacher_macs: MACs of one forward pass of the teacher, for one image; 0 without a teacher.
        carried: the state of the source's optimizer, if training starts from it.
        teacher: SHA-256 of the teacher's checkpoint; empty without a teacher.
        second: SHA-256 of the plan's second source; empty without one.
        sunk: MACs that training the source (and the second source) has cost, as far as they are known.
        choices: the values that training chooses for options that are not given.
    """

    name: str
    target: ModelSpec
    macs: int
    parameters: int
    promise: str
    steps: int
    source: Checkpoint | None = None
    plan: LoadedPlan | None = None
    variant: Variant = PLAIN
    teacher_macs: int = 0
    carried: OptimizerState | None = None
    teacher: str = ""
    second: str = ""
    sunk: int = 0
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The arm as messages name it."""
        return f"{self.name} for {self.steps:,} update{'' if self.steps == 1 else 's'}"

    @property
    def folder(self) -> str:
        """The name of the folder; for a baseline it does not depend on the plans, so that its runs are found again."""
        kind = "scratch" if self.from_scratch else "source"
        return f"{self.name}-{self.steps}" if self.plan else f"{kind}-{self.fingerprint()[:8]}"

    @property
    def from_scratch(self) -> bool:
        """Whether the model starts as timm initialises it."""
        return self.source is None

    def training_macs(self, images: int) -> int:
        """Return the MACs of training on a number of images, those of the teacher included."""
        return training_macs(self.macs, images) + self.teacher_macs * images

    def total_macs(self, batch: int) -> int:
        """Return the MACs of all updates, each of `batch` images, and of training what the arm starts from."""
        return self.sunk + self.training_macs(self.steps * batch)

    @property
    def target_key(self) -> str:
        """A text that is equal for equal targets."""
        return json_text({"name": self.target.architecture, "args": dict(self.target.model_args)}, sort_keys=True)

    def fingerprint(self) -> str:
        """Return the hex digest of everything that decides the start and the length of training."""
        # Consent to a loss changes no weight, so a run stays valid when it is given later.
        plan = self.plan.plan.model_dump(mode="json", exclude={"allow_lossy"}) if self.plan else None
        other = json_text(dict(self.variant.options), sort_keys=True) if self.variant.name else ""
        decisive = f"{self.target_key}{json_text(plan)}{self.steps}{other}{self.second}{self.teacher}"
        return hashlib.sha256(decisive.encode()).hexdigest()

    def start(self, out: Path) -> Path:
        """Return the checkpoint that training starts from: `out`, which `write_start` writes, or the source itself."""
        return self.source.address if self.source and self.plan is None else out

    def write_start(self, out: Path, seed: int, told: Callable[[str], None] = lambda remark: None) -> None:
        """Write the checkpoint that training starts from, grown and proven or freshly initialised; the source stays.

        Args:
            out: a folder.
            seed: added to the plan's.
            told: called with each remark on the images that growth sees.

        Raises:
            GrowtoolError: growing failed.
        """
        if self.source is None:
            write_fresh(self.target, out, seed)
        elif self.plan is not None:
            plan = self.plan.plan.model_copy(update={"seed": self.plan.plan.seed + seed})
            grow(resolve(plan, self.source), self.plan, out, force=True, optimizer=self.carried, told=told)


def grown_arms(source: Checkpoint, plans: Sequence[LoadedPlan]) -> list[Arm]:
    """Return an arm for each plan, named after its file; `steps` is not set, `sunk` is the cost of a second source.

    Raises:
        CheckpointError: the source's model cannot be built or run.
        PlanError: plans that cannot be carried out, each problem with its plan; or two plans of one name.
    """
    arms: list[Arm] = []
    names = names_of([loaded.path for loaded in plans])
    problems = taken_names(names, option="--plan", reserved=_RESERVED)
    traced = TracedModel.of(source.spec, where=source.name)
    for name, loaded in zip(names, plans, strict=True):
        try:
            recipe = resolve(loaded.plan, source, source=traced)
            require_consent(recipe)
        except GrowtoolError as error:
            problems.extend(f"{loaded.path}: {problem}" for problem in error.problems)
            continue
        told = loaded.with_plan(recipe.plan, recipe.choices)
        size = summarise(recipe).after
        arm = Arm(name, recipe.target, size.macs, size.parameters, recipe.promise.kind, 0, source, told)
        if recipe.second is not None:
            told_by = 0 if recipe.plan.second == MIRROR else recorded_macs(recipe.second) or 0
            arm = replace(arm, second=recipe.second.sha256(), sunk=told_by)
        arms.append(arm)
    if problems:
        raise PlanError(problems)
    return arms


def scratch_arms(arms: Iterable[Arm]) -> list[Arm]:
    """Return an arm from scratch for each different target, named after the first plan that leads to it."""
    found: dict[str, Arm] = {}
    for arm in arms:
        fresh = replace(arm, promise="", source=None, plan=None, carried=None, second="", sunk=0)
        found.setdefault(arm.target_key, fresh)
    several = len(found) > 1
    return [replace(arm, name=f"scratch-{arm.name}" if several else "scratch") for arm in found.values()]


def source_arm(source: Checkpoint) -> Arm:
    """Return the arm that trains the source further without growing it; its `steps` are not set."""
    model = build(source.spec, where=source.name)
    macs = count_macs(source.spec, model).total
    return Arm("source", source.spec, macs, sum(p.numel() for p in model.parameters()), "", 0, source)


def write_fresh(spec: ModelSpec, out: Path, seed: int) -> None:
    """Initialise the model of `spec` from `seed` and write it as a folder, replacing an earlier one."""
    model = library_of(spec).initialised(spec, seed)
    state = model.state_dict()
    write_folder(
        out,
        spec,
        infos_of(state),
        state.__getitem__,
        model=model,
        documents={},
        metadata={"growtool_version": version("growtool"), "growtool_seed": str(seed)},
        force=True,
    )
