"""The costs of a comparison as a chart, a table and sentences, all from the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from growtool.report import units
from growtool.report.chart import Chart, Series
from growtool.report.page import TableText
from growtool.workflows.compare.fit import LENGTHS, REACH, Crossing, Fit, crossing, fit
from growtool.workflows.compare.results import Spread
from growtool.workflows.compare.savings import Curve, Saving, levels, saving_at

_DRAWN = 60  # points of the line that draws a fit


@dataclass(frozen=True, slots=True)
class Pair:
    """A way of training, compared with training the same target from scratch.

    Attributes:
        curve: of the way.
        reference: the curve from scratch.
        savings: in the order of accuracy.
        crossing: of the fits of both curves; None if one has too few points for a fit.
    """

    curve: Curve
    reference: Curve
    savings: tuple[Saving, ...]
    crossing: Crossing | None


@dataclass(frozen=True, slots=True)
class Costs:
    """Accuracy against the MACs of all training.

    Attributes:
        curves: of all ways, each with its fit, or None if it has too few points.
        pairs: for each way that does not start from scratch, if its target was trained from scratch.
    """

    curves: tuple[tuple[Curve, Fit | None], ...]
    pairs: tuple[Pair, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data: `curves`, `savings` and `crossings`; accuracies in percent, savings as fractions of 1."""
        return {
            "curves": [_curve_json(curve, fitted) for curve, fitted in self.curves],
            "savings": savings_rows(self),
            "crossings": [
                {"arm": pair.curve.name, "reference": pair.reference.name, "extrapolated": pair.crossing.extrapolated}
                | asdict(pair.crossing)
                for pair in self.pairs
                if pair.crossing
            ],
        }


def costs_of(curves: Sequence[Curve]) -> Costs:
    """Compare each curve with its own target from scratch; the source, whose model is smaller, with the only one."""
    references = [curve for curve in curves if curve.from_scratch]
    others = [curve for curve in curves if not curve.from_scratch]
    of_target = {reference.target: reference for reference in references}
    only = references[0] if len(references) == 1 else None
    pairs = []
    for curve in others:
        reference = of_target.get(curve.target, only)
        if reference is not None:
            savings = [saving_at(curve, reference, level) for level in levels(curve, reference, others)]
            pairs.append(Pair(curve, reference, tuple(savings), crossing(curve.every, reference.every)))
    return Costs(tuple((curve, fit(curve.every)) for curve in curves), tuple(pairs))


def savings_rows(costs: Costs) -> list[dict[str, Any]]:
    """Return a mapping for each way and accuracy; `bound` says whether the saving is only a bound."""
    return [
        {
            "arm": pair.curve.name,
            "reference": pair.reference.name,
            "top1": saving.top1,
            "macs": saving.cost and saving.cost.macs,
            "reference_macs": saving.reference and saving.reference.macs,
            "bound": saving.bound,
            "saved": saving.saved,
            "saved_deviation": saving.deviation,
            "reason": saving.reason(pair.curve.name, pair.reference.name),
        }
        for pair in costs.pairs
        for saving in pair.savings
    ]


def savings_table(costs: Costs) -> TableText:
    """Return the table for readers: only accuracies at which a saving is known."""
    rows = [
        (pair.curve.name, f"{saving.top1:.2f}", str(saving.cost), str(saving.reference), _saved_text(saving))
        for pair in costs.pairs
        for saving in pair.savings
        if saving.saved is not None
    ]
    header = ("arm", "top-1 %", "total MACs", "from scratch", "saved %")
    return TableText(header, tuple(rows), "Saved at equal accuracy")


def _saved_text(saving: Saving) -> str:
    part, deviation = saving.saved or 0.0, saving.deviation
    bound = {"at least": "≥ ", "at most": "≤ "}.get(saving.bound, "")
    return f"{bound}{round(100 * part)}" + ("" if deviation is None else f" ± {100 * deviation:.0f}")


def cost_chart(costs: Costs, source_macs: int | None, titles: Mapping[str, str] | None = None) -> Chart:
    """Return the chart of the accuracy at the end of each run against the MACs of all training.

    The cost of the source is marked. A point without cost has no place on the logarithmic axis and is left out. A way
    without a title is called by its name.
    """
    titles = titles or {}
    return Chart(
        "accuracy at the end of runs; dotted: fits",
        "multiply-accumulates (MACs) of all training, source included",
        "top-1, %",
        tuple(
            series
            for series in (_series(*found, titles.get(found[0].name, found[0].name)) for found in costs.curves)
            if series.x
        ),
        marks=((float(source_macs), "source"),) if source_macs else (),
        log_x=True,
    )


def sentences(costs: Costs) -> list[str]:
    """Return sentences on what the table leaves out, and on where the fits cross and how certain that is."""
    said = []
    for pair in costs.pairs:
        left_out: dict[str, list[str]] = {}
        for saving in pair.savings:
            if reason := saving.reason(pair.curve.name, pair.reference.name):
                left_out.setdefault(reason, []).append(f"{saving.top1:.2f}")
        said += [
            f"{pair.curve.name}: no saving is known at {', '.join(tops)} %, because {reason}."
            for reason, tops in left_out.items()
        ]
        said.append(_crossing_text(pair))
    return said


def crossing_sentences(costs: Costs) -> list[str]:
    """Return the sentences on where the fits cross."""
    return [_crossing_text(pair) for pair in costs.pairs]


def fit_sentences(costs: Costs) -> list[str]:
    """Return a sentence with the numbers of each fit."""
    endless = " The points do not level off, so this limit means nothing."
    return [
        f"Fit of {curve.name}: {fitted.limit:.2f} - {fitted.scale:.2f} x (MACs / {units.count(fitted.unit)}) ^ "
        f"-{fitted.exponent:.3g} percent; {fitted.count} points, root mean square of the residuals "
        f"{fitted.residual:.2f} points.{'' if fitted.levels_off else endless}"
        for curve, fitted in costs.curves
        if fitted
    ]


def _crossing_text(pair: Pair) -> str:
    found, names = pair.crossing, (pair.curve.name, pair.reference.name)
    if found is None:
        counts = [len({macs for macs, _ in curve.means if macs}) for curve in (pair.curve, pair.reference)]
        short = " and ".join(f"{name} has {count}" for name, count in zip(names, counts, strict=True))
        return (
            f"{names[0]}: where its curve crosses that of {names[1]} is not known; a fit needs {LENGTHS} different "
            f"costs of each, and {short}."
        )
    first, second = names if found.ahead else names[::-1]
    sure = f"{100 * found.share:.0f} % of the fits to resampled residuals cross"
    if found.macs is None or found.top1 is None:
        return (
            f"{first} is ahead of {second} from {units.count(found.lowest)} MACs on, and their fits do not cross up to "
            f"{units.count(found.highest)}, {REACH:g} times the highest cost that was measured (beyond "
            f"{units.count(found.measured)} they are extrapolated; {sure})."
        )
    low, high = (f"above {units.count(found.highest)}" if end is None else units.count(end) for end in found.interval)
    beyond = f", extrapolated: both were measured up to {units.count(found.measured)}" if found.extrapolated else ""
    return (
        f"{first} is ahead of {second} from {units.count(found.lowest)} MACs on, until their fits cross at "
        f"{units.count(found.macs)} and {found.top1:.2f} % (95 % interval: {low} to {high}; {sure}){beyond}."
    )


def _series(curve: Curve, fitted: Fit | None, title: str) -> Series:
    points = sorted((point for point in curve.points if point.macs), key=lambda point: point.macs)
    drawn: tuple[tuple[float, float], ...] = ()
    if fitted is not None:
        low, high = points[0].macs, points[-1].macs
        places = [low * (high / low) ** (n / _DRAWN) for n in range(_DRAWN + 1)]
        drawn = tuple((macs, fitted.at(macs)) for macs in places)
    return spread_series(title, [(point.macs, point.spread) for point in points], drawn)


def spread_series(
    title: str, points: Sequence[tuple[float, Spread]], fit: tuple[tuple[float, float], ...] = ()
) -> Series:
    """Return a line through means over seeds at their places, with the deviations if there are any."""
    deviations = tuple(spread.deviation or 0.0 for _, spread in points)
    return Series(
        title,
        tuple(float(place) for place, _ in points),
        tuple(spread.mean for _, spread in points),
        deviations if any(deviations) else (),
        fit,
    )


def _curve_json(curve: Curve, fitted: Fit | None) -> dict[str, Any]:
    points = [
        {"total_macs": point.macs, "steps": point.steps, "top1": asdict(point.spread), "by_seed": dict(point.top1)}
        for point in curve.points
    ]
    return {"arm": curve.name, "points": points, "fit": asdict(fitted) if fitted else None}
