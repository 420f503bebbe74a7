"""A comparison as a table, as data, and as curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from growtool.finetune.state.points import EVAL_LOSS, MACS, TOP1, UPDATES
from growtool.report import units
from growtool.report.chart import Chart, Series
from growtool.report.page import TableText
from growtool.workflows.compare.compare import ArmResult, Comparison
from growtool.workflows.compare.costs import cost_chart, spread_series
from growtool.workflows.compare.results import FRACTIONS, Spread

SHOWN = ("arm", "updates", "total MACs", "start %", "end %", "lr", "parameters", "seconds")
"""The columns that fit on a page."""


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a mapping for each arm: accuracies in percent, MACs of a forward pass, of training and of all."""
    return [_row(comparison, result) for result in comparison.results]


def _row(comparison: Comparison, result: ArmResult) -> dict[str, Any]:
    arm, outcomes = result.arm, result.outcomes
    row: dict[str, Any] = {
        "arm": arm.name,
        "folder": arm.folder,
        "promise": arm.promise or None,
        "parameters": arm.parameters,
        "macs": arm.macs,
        "lr": result.rate,
        "lr_tried": result.tried,
        "seeds": len(outcomes),
        "failed": [f"{failed.trial.name}: {failed.reason}" for failed in result.failed],
        "steps": arm.steps,
        "training_macs": arm.training_macs(arm.steps * comparison.batch_size),
        "total_macs": arm.total_macs(comparison.batch_size),
    }
    if not outcomes:
        return row
    row["start"] = asdict(Spread.of([outcome.start for outcome in outcomes]))
    for fraction in FRACTIONS:
        row[f"at_{fraction:.0%}"] = asdict(Spread.of([outcome.at(fraction * arm.steps) for outcome in outcomes]))
    row["final"] = asdict(Spread.of([outcome.final for outcome in outcomes]))
    row["seconds"] = asdict(Spread.of([outcome.seconds for outcome in outcomes]))
    return row


def table(comparison: Comparison) -> TableText:
    """Return the table for readers, with mean and standard deviation over seeds."""
    header = (
        "arm", "promise", "parameters", "MACs", "lr", "seeds", "start %", *(f"{f:.0%} of budget" for f in FRACTIONS),
        "end %", "updates", "training MACs", "total MACs", "seconds",
    )  # fmt: skip
    return TableText(header, tuple(_cells(row) for row in rows(comparison)))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def spread(key: str, places: int = 2) -> str:
        value = row.get(key)
        if value is None:
            return "-"
        mean = f"{value['mean']:,.{places}f}"
        return mean if value["deviation"] is None else f"{mean} ± {value['deviation']:,.{places}f}"

    return (
        row["arm"], row["promise"] or "-", units.count(row["parameters"]), units.count(row["macs"]),
        "-" if row["lr"] is None else f"{row['lr']:g}", str(row["seeds"] or "failed"), spread("start"),
        *(spread(f"at_{fraction:.0%}") for fraction in FRACTIONS), spread("final"), f"{row['steps']:,}",
        units.count(row["training_macs"]), units.count(row["total_macs"]), spread("seconds", 0),
    )  # fmt: skip


def evaluations(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a mapping for each evaluation of each run: arm, length, rate, seed, costs, top-1 and loss."""
    return [
        {
            "arm": result.arm.name,
            "steps": result.arm.steps,
            "lr": outcome.lr,
            "seed": outcome.seed,
            "updates": point.step,
            "training_macs": point.macs,
            "seconds": point.seconds,
            "top1": point.top1,
            "eval_loss": point.eval_loss,
        }
        for result in comparison.results
        for outcome in result.outcomes
        for point in outcome.points
    ]


def csv_text(data: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV for spreadsheets; a spread becomes two columns, its mean and its deviation."""
    flat = []
    for row in data:
        line: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, dict) and "mean" in value:
                line |= {key: value["mean"], f"{key}_deviation": value["deviation"]}
            elif not isinstance(value, dict | list):
                line[key] = value
        flat.append(line)
    columns = list(dict.fromkeys(key for line in flat for key in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def charts(comparison: Comparison) -> list[Chart]:
    """Return charts: top-1 of all ways against the MACs of all training, and the longest run of each way over time.

    The courses are top-1 against MACs and updates, and the loss. They come first if no way has several lengths. Mean
    and deviation are over seeds.
    """
    ways = comparison.ways
    longest = [max(lengths, key=lambda result: result.arm.steps) for lengths in ways.values()]
    several = any(len(lengths) > 1 for lengths in ways.values())
    within = [
        Chart(
            f"{title}, the longest run of each" if several else title,
            x_label,
            y_label,
            tuple(_series(result, measure, axis) for result in longest),
        )
        for (measure, title, y_label), (axis, x_label) in ((TOP1, MACS), (TOP1, UPDATES), (EVAL_LOSS, UPDATES))
    ]
    titles = {name: _title(lengths) for name, lengths in ways.items()}
    costs = cost_chart(comparison.costs, comparison.source_macs, titles)
    return [costs, *within] if several else [*within, costs]


def _title(lengths: Sequence[ArmResult]) -> str:
    """Return the name of a way with its size, the promise of its growth, and the rates of its lengths."""
    arm = lengths[0].arm
    rates = [f"{rate:g}" for rate in dict.fromkeys(result.rate for result in lengths) if rate is not None]
    facts = [f"{units.count(arm.parameters)} parameters", arm.promise, f"lr {'/'.join(rates)}" if rates else ""]
    return f"{arm.name}: {', '.join(filter(None, facts))}"


def _series(result: ArmResult, measure: str, axis: str) -> Series:
    """Return means over seeds; updates at which a seed was not evaluated are left out, as their means would jump."""
    seeds = [{point.step: point for point in outcome.points} for outcome in result.outcomes]
    together = [[points[step] for points in seeds] for step in seeds[0] if all(step in points for points in seeds)]
    x, y = ([Spread.of([getattr(point, name) for point in points]) for points in together] for name in (axis, measure))
    return spread_series(_title([result]), [(place.mean, spread) for place, spread in zip(x, y, strict=True)])
