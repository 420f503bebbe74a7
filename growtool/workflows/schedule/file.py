"""The file of a schedule: where it starts, what every training stage has in common, and the stages.

    checkpoint: resnet_cifar10
    train: {data: images, lr: 5e-4, batch_size: 128}
    rate: {sched: wsd, warmup: 0.05, decay: 0.2}
    stages:
      - train: {epochs: 2}
      - grow: {target: {scale: {width: 2}}, width: {operator: mixture}}
      - train: {macs: 2e12, kd_teacher: previous}
      - grow: deeper.yaml
      - train: {steps: 500}

Training takes the options of `growtool finetune` under their names in config.yaml; growing takes a plan, or its file.
`rate`, which is optional, is one schedule of the learning rate over all stages.
Paths start in the folder of the file; those within a plan that has a file of its own, in the working folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.options.merging import Layer, merge, read_layer, require_sound
from growtool.finetune.options.settings import NEW, RATE, Settings
from growtool.plan import LoadedPlan, Plan, load_plan
from growtool.plan.document import Document, read_document
from growtool.plan.explain import validated
from growtool.plan.load import checkpoint_in, path_in, plan_in
from growtool.plan.section import Section, problem
from growtool.workflows.schedule.rate import Rate
from growtool.workflows.schedule.stages import PREVIOUS, Grow, Stage, Train

_OPTIONAL = frozenset({"train", "model_args"})


def _none_is_empty(value: Any) -> Any:
    return {} if value is None else value


class Training(Settings):
    """Settings of a training."""

    DECIDED = frozenset({"checkpoint", "output", "resume", "force"})
    BY = "schedule"


Trained = Annotated[Training, BeforeValidator(_none_is_empty, json_schema_input_type=Training | None)]
Grown = Annotated[
    Annotated[str, Tag("file")] | Annotated[Plan, Tag("plan")],
    Discriminator(lambda value: "file" if isinstance(value, str) else "plan"),
]


class Step(Section):
    """One stage: `train`, options of `growtool finetune`; or `grow`, a plan or its file."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    train: Trained = Field(default=Training(), description="options of `growtool finetune`, over those of all stages")
    grow: Grown | None = Field(default=None, description="a plan, or the path of its file")

    @model_validator(mode="after")
    def _is_one(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise problem("expected a mapping with one of train, grow")
        return self


def _stages(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise problem("expected a list of stages, each `train:` or `grow:`")
    return tuple(value)


class Schedule(Section):
    """A schedule: its first checkpoint, the options of all its trainings, and its stages."""

    checkpoint: str = Field(description="the path of the checkpoint to start from")
    train: Trained = Field(default=Training(), description="options of `growtool finetune` for every stage that trains")
    rate: Rate | None = Field(default=None, description="one course of the learning rate over all stages")
    stages: Annotated[
        tuple[Step, ...], BeforeValidator(_stages, json_schema_input_type=Annotated[list[Step], Field(min_length=1)])
    ] = Field(description="a list of stages, each `train:` or `grow:`")


@dataclass(frozen=True, slots=True)
class LoadedSchedule:
    """A schedule as it was read.

    Attributes:
        path: the file.
        text: its content.
        checkpoint: that the first stage starts from.
        stages: in their order.
        rate: one schedule of the learning rate over all stages; None if each stage has its own.
    """

    path: Path
    text: str
    checkpoint: str
    stages: tuple[Stage, ...]
    rate: Rate | None


def load_schedule(path: Path) -> LoadedSchedule:
    """Read a schedule, and every plan it names.

    Raises:
        PlanError: the file is no schedule, or a plan in it is none; every problem with its place.
    """
    document = read_document(
        path, what="a schedule in YAML", need="a mapping with `checkpoint`, `train` and `stages`", optional=_OPTIONAL
    )
    schedule = validated(document, Schedule)
    stages = document.content.get("stages")
    if schedule is not None and schedule.rate is not None:
        _note_rates(document, schedule)
    plans = _named_plans(document, stages if isinstance(stages, list) else ())
    if document.problems or schedule is None:
        raise PlanError(document.lines())
    start = checkpoint_in(schedule.checkpoint, path.parent)
    read = tuple(_read_stages(document, plans))
    require_sound({stage.place: stage.options_with(state=True) for stage in read if isinstance(stage, Train)}, path)
    return LoadedSchedule(path, document.text, start, read, schedule.rate)


def _note_rates(document: Document, schedule: Schedule) -> None:
    """Note the options of training that contradict one rate over all stages."""
    own = [(("stages", index, "train"), step.train) for index, step in enumerate(schedule.stages)]
    for loc, training in [(("train",), schedule.train), *own]:
        for name in RATE:
            if name in training.model_fields_set:
                document.note((*loc, name), "the schedule's `rate` decides this for all stages; drop it", at_key=True)
    for loc, training in own:
        if training.lr is not None:
            document.note(
                (*loc, "lr"), "given for one stage, but `rate` is of all; give it in `train` above", at_key=True
            )
    if not any("train" in step.model_fields_set for step in schedule.stages):
        document.note(("rate",), "found no stage that trains, expected one at least; drop `rate`")
    elif schedule.train.lr is None:
        document.note(("rate",), "found no lr in `train` above `stages`, expected one for all of them, e.g. `lr: 1e-3`")


def _named_plans(document: Document, stages: Sequence[Any]) -> dict[int, LoadedPlan]:
    """Load the plans that have their own files; return them by the index of their stage, and note their problems."""
    plans = {}
    for index, stage in enumerate(stages):
        named = stage.get("grow") if isinstance(stage, dict) else None
        if isinstance(named, str):
            try:
                plans[index] = load_plan(path_in(named, document.path.parent))
            except GrowtoolError as error:
                for found in error.problems:
                    document.note(("stages", index, "grow"), found)
    return plans


def _read_stages(document: Document, plans: Mapping[int, LoadedPlan]) -> Iterator[Stage]:
    """Yield the stages of a schedule without problems."""
    path, content = document.path, document.content
    common = read_layer(document, ("train",), content.get("train"), {PREVIOUS})
    for index, stage in enumerate(content["stages"]):
        ((kind, value),), number, loc = stage.items(), index + 1, ("stages", index)
        place = document.place(*loc, kind)
        if kind == "train":
            grown = number > 1 and "grow" in content["stages"][index - 1]
            shared = common if grown else Layer({k: v for k, v in common.items() if k not in NEW}, common.places)
            options = merge(shared, read_layer(document, (*loc, kind), value, {PREVIOUS}))
            yield Train(number, _digest(kind, dict(options)), place, options)
        elif index in plans:
            yield Grow(number, _digest(kind, plans[index].text), place, plans[index])
        else:
            loaded = LoadedPlan.of(value, path)
            yield Grow(number, _digest(kind, value), place, loaded.with_plan(plan_in(loaded.plan, path.parent)))


def _digest(kind: str, content: Any) -> str:
    return hashlib.sha256(repr((kind, content)).encode()).hexdigest()
