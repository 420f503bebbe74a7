"""Curves of runs and schedules: accuracy and loss against updates and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from growtool.checkpoint import build, open_checkpoint
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.journal import METRICS, read_events
from growtool.finetune.state.points import EVAL_LOSS, MACS, TOP1, TRAIN_LOSS, UPDATES, Point, read_points
from growtool.report import units
from growtool.report.chart import Chart, Series
from growtool.report.inspect import read_lineage
from growtool.report.page import TableText
from growtool.workflows.schedule.run import STATE, read_records


@dataclass(frozen=True, slots=True)
class Curve:
    """The evaluations of a run, or of all stages of a schedule.

    Attributes:
        name: of the run's folder.
        points: in their order; for a schedule, one stage after the other.
        grown: the points after which the model grew.
        facts: size of the model, operators of its growth, and highest learning rate, if the records hold them.
    """

    name: str
    points: tuple[Point, ...]
    grown: tuple[Point, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The name, followed by the facts."""
        return f"{self.name}: {', '.join(self.facts)}" if self.facts else self.name


def read_curve(folder: Path) -> Curve:
    """Read the curve of a run of `growtool finetune` or of a schedule, complete or not.

    Raises:
        PlanError: the folder is neither, or holds no evaluation yet.
        CheckpointError: its records are damaged.
    """
    name = folder.resolve().name
    if (folder / STATE).is_file():
        return _read_schedule(folder, name)
    if not (folder / METRICS).is_file():
        raise PlanError(
            f"{folder}: found neither {METRICS} nor {STATE}, expected the folder of a run of `growtool finetune` or "
            "`growtool schedule`"
        )
    return Curve(name, _points(folder, None), facts=(*_model(folder), *_rate([folder])))


def told_apart(curves: Sequence[Curve], folders: Sequence[Path]) -> list[Curve]:
    """Return the curves; those whose folders have the same name are named by their whole paths."""
    names = [curve.name for curve in curves]
    return [
        replace(curve, name=str(folder)) if names.count(curve.name) > 1 else curve
        for curve, folder in zip(curves, folders, strict=True)
    ]


def curve_charts(curves: Sequence[Curve]) -> list[Chart]:
    """Return charts of accuracy against updates and MACs, and of both losses; each with all runs, and growth marked."""
    return [
        Chart(
            title=title,
            x_label=x_label,
            y_label=y_label,
            series=tuple(_series(curve, axis, measure) for curve in curves),
            marks=tuple(
                (float(getattr(point, axis)), "grown" if len(curves) == 1 else f"{curve.name} grown")
                for curve in curves
                for point in curve.grown
            ),
        )
        for (measure, title, y_label), (axis, x_label) in (
            (TOP1, UPDATES),
            (TOP1, MACS),
            (EVAL_LOSS, UPDATES),
            (TRAIN_LOSS, UPDATES),
        )
    ]


def curve_table(curves: Sequence[Curve]) -> TableText:
    """Return a table with a row for each run: first, best and last accuracy, and cost."""
    rows = []
    for curve in curves:
        first, last = curve.points[0], curve.points[-1]
        best = max(curve.points[1:] or curve.points, key=lambda point: (point.top1, -point.eval_loss))
        rows.append(
            (
                curve.name, f"{first.top1:.2f} %", f"{best.top1:.2f} %", f"{last.top1:.2f} %", f"{last.step:,}",
                units.count(last.macs), f"{last.minutes:.1f}",
            )
        )  # fmt: skip
    return TableText(("run", "before", "best", "last", "updates", "MACs", "minutes"), tuple(rows))


def _read_schedule(folder: Path, name: str) -> Curve:
    points: list[Point] = []
    grown: list[Point] = []
    records = read_records(folder)
    for record in records:
        before = points[-1] if points else None
        if record.kind == "grow" and before is not None:
            grown.append(before)
        elif (folder / record.folder / METRICS).is_file():
            points.extend(_points(folder / record.folder, before))
    under_way = folder / f"{len(records) + 1:02d}-train"
    if (under_way / METRICS).is_file():
        points.extend(_points(under_way, points[-1] if points else None))
    if not points:
        raise PlanError(f"{folder}: no stage has trained yet, expected at least one evaluation; look again later")
    sizes = dict.fromkeys(units.count(record.parameters) for record in (*records[:1], *records[-1:]))
    facts = (f"{' to '.join(sizes)} parameters",) if sizes else ()
    return Curve(name, tuple(points), tuple(grown), (*facts, *_rate(folder.glob("*-train"))))


def _model(folder: Path) -> tuple[str, ...]:
    """Return the size of a run's model and the operators of its last growth; nothing before the first checkpoint."""
    best = RunFolder(folder).best
    if not best.is_dir():
        return ()
    try:
        checkpoint = open_checkpoint(best)
        size = sum(parameter.numel() for parameter in build(checkpoint.spec, where=checkpoint.name).parameters())
        steps = read_lineage(checkpoint)
    except CheckpointError:  # a plugin registers the model, and `growtool report` loads none: draw without these facts
        return ()
    operators = [steps[-1][axis]["operator"] for axis in ("width", "depth") if axis in steps[-1]] if steps else []
    grown = f"grown by {' and '.join(operators)}"
    return (f"{units.count(size)} parameters", *([grown] if operators else []))


def _rate(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return the highest learning rate of some runs: as it was given, else as their steps record it."""
    runs = [RunFolder(folder) for folder in folders]
    asked = [yaml.safe_load(run.config.read_text("utf-8"))["lr"] for run in runs if run.config.is_file()]
    if asked and None not in asked:
        return (f"lr {max(asked):g}",)
    written = (run.root / METRICS for run in runs)
    rates = [
        event["lr"] for path in written if path.is_file() for event in read_events(path) if event["event"] == "step"
    ]
    return (f"lr {max(rates):.2g}",) if rates else ()


def _points(folder: Path, earlier: Point | None) -> tuple[Point, ...]:
    points = read_points(folder)
    if not points and earlier is None:
        raise PlanError(f"{folder}: no evaluation yet, expected at least one; look again later")
    return tuple(point.after(earlier) for point in points)


def _series(curve: Curve, axis: str, measure: str) -> Series:
    pairs: list[tuple[float, Any]] = [(float(getattr(p, axis)), getattr(p, measure)) for p in curve.points]
    known = [(x, float(y)) for x, y in pairs if y is not None]
    return Series(curve.title, tuple(x for x, _ in known), tuple(y for _, y in known))
