"""Curves of runs and schedules: accuracy and loss against updates, multiply-accumulates and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.errors import PlanError
from growtool.finetune.state.journal import METRICS
from growtool.finetune.state.points import COSTS, EVAL_LOSS, TOP1, TRAIN_LOSS, Point, read_points
from growtool.report import units
from growtool.report.chart import Chart, Series
from growtool.report.page import TableText
from growtool.workflows.schedule.run import STATE, read_records


@dataclass(frozen=True, slots=True)
class Curve:
    """The evaluations of a run, or of all stages of a schedule.

    Attributes:
        name: of the run's folder.
        points: in their order; a schedule's stages one after the other.
        grown: the places among the points after which the model grew.
    """

    name: str
    points: tuple[Point, ...]
    grown: tuple[Point, ...] = ()


def read_curve(folder: Path) -> Curve:
    """The curve of a run of `growtool finetune` or of a schedule, complete or not.

    Raises:
        PlanError: the folder is neither.
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
    return Curve(name, _points(folder, None))


def curve_charts(curves: Sequence[Curve]) -> list[Chart]:
    """Nine charts, all runs in each: three measures against three kinds of cost, growth marked where one run grew."""
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
        for measure, title, y_label in (TOP1, EVAL_LOSS, TRAIN_LOSS)
        for axis, x_label in COSTS
    ]


def curve_table(curves: Sequence[Curve]) -> TableText:
    """One row for each run: how it began, its best, its last, and what it cost."""
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
    return Curve(name, tuple(points), tuple(grown))


def _points(folder: Path, earlier: Point | None) -> tuple[Point, ...]:
    points = read_points(folder)
    if not points and earlier is None:
        raise PlanError(f"{folder}: no evaluation yet, expected at least one; look again later")
    return tuple(point.after(earlier) for point in points)


def _series(curve: Curve, axis: str, measure: str) -> Series:
    pairs: list[tuple[float, Any]] = [(float(getattr(p, axis)), getattr(p, measure)) for p in curve.points]
    known = [(x, float(y)) for x, y in pairs if y is not None]
    return Series(curve.name, tuple(x for x, _ in known), tuple(y for _, y in known))
