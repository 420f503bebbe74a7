"""The file of a schedule: where it starts, what every training stage has in common, and the stages.

    checkpoint: resnet_cifar10
    train: {data: images, lr: 5e-4, batch_size: 128}
    stages:
      - train: {epochs: 2}
      - grow: {target: {scale: {width: 2}}, width: {operator: mixture}}
      - train: {macs: 2e12, kd_teacher: previous}
      - grow: deeper.yaml
      - train: {steps: 500}

Training takes the options of `growtool finetune` under their names in config.yaml; growing takes a plan, or its file.
Paths start in the folder of the file; those within a plan that has a file of its own, in the working folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.options import merge, note_unfit, placed_options
from growtool.plan import LoadedPlan, load_plan
from growtool.plan.document import Document, Loc, dotted, read_document
from growtool.plan.explain import add_invalid
from growtool.plan.placing import placed, placed_plan
from growtool.plan.schema import SECTIONS
from growtool.schedule.stages import KINDS, PREVIOUS, Grow, Stage, Train

_KEYS = ("checkpoint", "train", "stages")
_SCHEDULED = {"checkpoint", "output", "resume", "force"}  # what the schedule itself decides
_OPTIONAL = frozenset({"train", "model_args"})


@dataclass(frozen=True, slots=True)
class LoadedSchedule:
    """A schedule as it was read.

    Attributes:
        path: the file.
        text: its content.
        checkpoint: where the first stage starts.
        stages: in their order.
    """

    path: Path
    text: str
    checkpoint: str
    stages: tuple[Stage, ...]


def load_schedule(path: Path) -> LoadedSchedule:
    """Read a schedule, and every plan it names.

    Raises:
        PlanError: it is not a schedule, or a plan in it is not one; every finding with its place.
    """
    document, content, text = read_document(
        path, what="a schedule in YAML", need="a mapping with `checkpoint`, `train` and `stages`", optional=_OPTIONAL
    )
    for key in content:
        if key not in _KEYS:
            document.note((key,), f"unknown key, expected one of {', '.join(_KEYS)}", at_key=True)
    checkpoint = content.get("checkpoint")
    if not isinstance(checkpoint, str):
        document.note(("checkpoint",), "expected the path of the checkpoint to start from")
    common = _options(document, ("train",), content.get("train", {}), path.parent)
    stages = content.get("stages")
    if not isinstance(stages, list) or not stages:
        document.note(("stages",), "expected a list of stages, each `train:` or `grow:`")
        stages = []
    read = [_stage(document, number, stage, common, path) for number, stage in enumerate(stages)]
    if document.problems:
        raise PlanError(document.lines())
    start = str(placed(str(checkpoint), path.parent))
    return LoadedSchedule(path, text, start, tuple(stage for stage in read if stage is not None))


def _stage(document: Document, index: int, content: Any, common: Mapping[str, Any], path: Path) -> Stage | None:
    loc: Loc = ("stages", index)
    if not isinstance(content, dict) or len(content) != 1 or next(iter(content)) not in KINDS:
        document.note(loc, f"expected a mapping with one of {', '.join(KINDS)}")
        return None
    (kind, value), number = next(iter(content.items())), index + 1
    line, column = document.keys[(*loc, kind)]
    place = f"{path}:{line}:{column} {dotted((*loc, kind))}"
    if kind == "train":
        options = merge(common, _options(document, (*loc, kind), value or {}, path.parent))
        return Train(number, _digest(kind, options), place, options)
    plan = _plan(document, (*loc, kind), value, path)
    digest = _digest(kind, plan.text if isinstance(value, str) else value) if plan else ""
    return Grow(number, digest, place, plan) if plan else None


def _options(document: Document, loc: Loc, content: Any, base: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        document.note(loc, "expected a mapping of options of `growtool finetune`")
        return {}
    for key in content:
        if key in _SCHEDULED:
            document.note((*loc, key), "the schedule decides this; drop it", at_key=True)
    note_unfit(document, loc, {key: value for key, value in content.items() if key not in _SCHEDULED})
    return placed_options(content, base, words={PREVIOUS})


def _plan(document: Document, loc: Loc, content: Any, path: Path) -> LoadedPlan | None:
    """The plan a stage names or holds; one that is written out keeps its text for the lineage."""
    from pydantic import ValidationError

    try:
        if isinstance(content, str):
            return load_plan(placed(content, path.parent))
        loaded = LoadedPlan.of(content, path)
        return loaded.saying(placed_plan(loaded.plan, path.parent))
    except ValidationError as error:
        add_invalid(document, error, SECTIONS, at=loc)
    except GrowtoolError as error:
        for problem in error.problems:
            document.note(loc, problem)
    return None


def _digest(kind: str, content: Any) -> str:
    return hashlib.sha256(repr((kind, content)).encode()).hexdigest()
