"""One run of the campaign: a schedule file written, run by growtool, and read."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from growtool.finetune.state.points import read_points
from growtool.workflows.schedule.file import load_schedule
from growtool.workflows.schedule.run import STATE, read_records, run_schedule
from growtool.workflows.schedule.stages import StageRecord
from tests.campaign.images import CLASSES, Held, fed_from
from tests.campaign.networks import arguments_of, write_fresh
from tests.campaign.runs import SEEDS, SIZES, TRAINING, Run

NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
assert len(NAMES) == CLASSES
_RESULT = "result.json"


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        run: its label.
        lr: its peak rate.
        updates: of the run itself.
        macs: of all training that led there, that of its sources included.
        before: of the sources alone.
        top1: in percent, at the end.
        eval_loss: likewise.
        start: accuracy right after growth; None where nothing grew.
        seconds: of the run itself.
    """

    run: str
    lr: float
    updates: int
    macs: int
    before: int
    top1: float
    eval_loss: float
    start: float | None
    seconds: float


@dataclass(frozen=True)
class Place:
    """Where and how the campaign runs.

    Attributes:
        root: gets a folder for each run.
        splits: the images, on the device.
        device: a torch device, as growtool takes it.
        tiny: networks and lengths that a CPU core does in a moment.
    """

    root: Path
    splits: Mapping[str, Held]
    device: str
    tiny: bool = False

    def folder(self, run: Run) -> Path:
        """Of a run."""
        return self.root / run.label

    def updates(self, run: Run, epochs: float) -> int:
        """Of so many epochs; a twentieth of them for trying out."""
        per_epoch = len(self.splits["train"]) // TRAINING[run.family]["batch_size"]
        return max(4, round(epochs * per_epoch / (20 if self.tiny else 1)))


def trained(run: Run, place: Place, runs: Mapping[str, Run]) -> Result:
    """What it came to: read where it is done, gone on with where it was cut short.

    Args:
        run: to train, after the runs that it goes on from.
        place: where.
        runs: all of them, by label.
    """
    folder, needs = place.folder(run), [runs[label] for label in needed(run)]
    before = [trained(need, place, runs) for need in needs]
    if found := done(place, [run]):
        return found[0]
    file = folder / "schedule.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(document(run, place, runs), sort_keys=False))
    output = folder / "stages"
    with fed_from(dict(place.splits), NAMES):
        records = run_schedule(load_schedule(file), output, resume=(output / STATE).is_file())
    spent = sum(result.macs for result in before)
    last = read_points(output / records[-1].folder)[-1]  # every run ends in training
    result = Result(
        run=run.label,
        lr=run.lr or TRAINING[run.family]["lr"],
        updates=sum(record.steps for record in records),
        macs=spent + sum(record.macs for record in records),
        before=spent,
        top1=last.top1,
        eval_loss=last.eval_loss,
        start=_start(output, records),
        seconds=sum(record.seconds for record in records),
    )
    (folder / _RESULT).write_text(json.dumps(asdict(result)))
    return result


def done(place: Place, runs: Iterable[Run]) -> list[Result]:
    """What those of some runs that are done came to."""
    files = (place.folder(run) / _RESULT for run in runs)
    return [Result(**json.loads(file.read_text())) for file in files if file.is_file()]


def needed(run: Run) -> list[str]:
    """Labels of the runs whose results it begins with."""
    own = [] if run.start in SIZES else [f"{run.family}/{run.start}/seed{run.seed}"]
    return own if run.second is None else [*own, f"{run.family}/{run.second}/seed{(run.seed + 1) % SEEDS}"]


def document(run: Run, place: Place, runs: Mapping[str, Run]) -> dict[str, Any]:
    """The content of its schedule file."""
    first, *second = [_last(place.folder(runs[label]) / "stages") for label in needed(run)] or [None]
    if first is None:
        fresh = place.root / "fresh" / f"{run.family}-{run.start.replace(' ', '-')}-seed{run.seed}"
        first = write_fresh(run.family, run.start, run.seed, fresh, tiny=place.tiny)
    training = {**TRAINING[run.family], **run.options, "seed": run.seed, "data": str(place.root), "workers": 0}
    training |= {"device": place.device, "recovery_interval": 0, "checkpoint_hist": 1}
    training |= {"lr": run.lr} if run.lr is not None else {}
    return {
        "checkpoint": str(first), "train": training, "rate": dict(run.rate),
        "stages": [_stage(run, stage, place, second) for stage in run.stages],
    }  # fmt: skip


def _stage(run: Run, stage: float | Mapping[str, Any], place: Place, second: list[Path]) -> dict[str, Any]:
    if not isinstance(stage, Mapping):
        return {"train": {"steps": place.updates(run, stage)}}
    sections = {name: section for name, section in stage.items() if name != "size"}
    target = {"model_args": arguments_of(run.family, stage.get("size", "large"), tiny=place.tiny)}
    plan = {"target": target, "seed": run.seed, "allow_lossy": True, **copy.deepcopy(sections)}
    return {"grow": plan | ({"second": str(second[0])} if second else {})}


def _last(output: Path) -> Path:
    return output / read_records(output)[-1].checkpoint


def _start(output: Path, records: list[StageRecord]) -> float | None:
    """Accuracy before the first update after the latest growth."""
    grown = [record.number for record in records if record.kind == "grow"]
    after = [record for record in records if grown and record.number == grown[-1] + 1]
    return read_points(output / after[0].folder)[0].top1 if after else None
