"""The tables of docs/experiments.md and the README's picture, from the evaluations beside it.

`python -m tests.support.experiments_page` prints the tables and draws the picture.
"""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from growtool.report.chart import Chart, Series, to_svg

DOCS = Path(__file__).parents[2] / "docs"
PAGE, RESULTS = DOCS / "experiments.md", DOCS / "experiments" / "results.csv"
PICTURE = DOCS / "experiments" / "cost.svg"


class Run(NamedTuple):
    """A way to come to a trained model, at one peak learning rate: the evaluations of all its seeds."""

    folder: str
    arm: str
    lr: str

    def evaluations(self) -> Mapping[int, Mapping[int, float]]:
        """Updates -> seed -> top-1 in percent."""
        return evaluations().get(self, {})

    def seeds(self) -> str:
        """How many there are."""
        found = self.evaluations()
        return str(len(found[max(found)])) if found else "0"

    def after(self, updates: int | None, seed: int | None) -> str:
        """Mean and standard deviation over seeds, or of one, after so many updates or at the end (None)."""
        found = self.evaluations()
        seeds = found.get(max(found, default=0) if updates is None else updates, {})
        values = [top1 for number, top1 in seeds.items() if seed in (None, number)]
        if not values:
            return ""
        mean = f"{statistics.mean(values):.2f}"
        return mean if len(set(values)) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


@cache
def evaluations() -> Mapping[Run, Mapping[int, Mapping[int, float]]]:
    """All that is in results.csv."""
    found: dict[Run, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    with RESULTS.open(newline="") as file:
        for row in csv.DictReader(file):
            run = Run(row["folder"], row["arm"], row["lr"])
            found[run][int(row["updates"])][int(row["seed"])] = float(row["top1"])
    return found


@dataclass(frozen=True)
class Table:
    """Attributes:

    rows: the first cells of each row (one text, which may have several), and the run or the runs that follow.
    columns: updates after which a run was evaluated; None: at its end.
    seeds: whether a column before these says how many seeds there are, those of the first run.
    seed: the only one that counts; None: all of them.
    """

    rows: Mapping[str, Run | Sequence[Run]]
    columns: Sequence[int | None]
    seeds: bool = True
    seed: int | None = None

    def lines(self) -> list[str]:
        """Its rows in Markdown."""
        lines = []
        for label, found in self.rows.items():
            runs = [found] if isinstance(found, Run) else found
            cells = [run.after(updates, self.seed) for run in runs for updates in self.columns]
            lines.append(f"| {' | '.join([label, *([runs[0].seeds()] if self.seeds else []), *cells])} |")
        return lines


def _runs(folder: str, lr: str, arms: Mapping[str, str]) -> dict[str, Run]:
    return {label: Run(folder, arm, lr) for label, arm in arms.items()}


def _rates(folder: str, lrs: Sequence[str], arms: Mapping[str, str]) -> dict[str, list[Run]]:
    return {label: [Run(folder, arm, lr) for lr in lrs] for label, arm in arms.items()}


WIDTH = {
    "`two_source`": "two_source",
    "`two_source`, cross blocks of gain 0.5": "two_source-0.5",
    "`mixture`, bank `sub_block`, gain 0.3": "mixture-sub_block",
    "`mixture`, bank `raw`, gain 0.3": "mixture-0.3",
    "`mixture`, bank `raw`, gain 1.0": "mixture-1.0",
    "`mixture` as published": "mixture-published",
    "`tile` (noise)": "tile",
    "`tile`, equal copies": "tile-equal",
    "`net2net`": "net2net",
}
VIT_WIDTH = {"`two_source`, `second: mirror`": "mirror"} | {
    label: arm for label, arm in WIDTH.items() if not arm.startswith("two_source")
}
DEPTH = {f"`{name}`": f"depth-{name}" for name in ("zero_out", "stack", "interleave")}
VIT_DEPTH = {f"`{name}`": f"depth-{name}" for name in ("zero_out", "cancel_out", "stack", "interleave")}
SCRATCH = {"random weights": "scratch"}
ONE, TWO, HALF = 390, 780, 195  # updates of an epoch, of two, of half a one

TABLES = [
    Table(
        _runs("resnet-width", "0.03", WIDTH) | _runs("resnet-width", "0.1", {"random weights, peak 0.1": "scratch"}),
        (0, ONE, TWO),
    ),
    Table(
        _runs("vit-width", "0.0003", {label: arm for label, arm in VIT_WIDTH.items() if arm != "mixture-published"})
        | _runs(
            "vit-width",
            "0.001",
            {"`mixture` as published, peak 1e-3": "mixture-published", "random weights, peak 1e-3": "scratch"},
        ),
        (0, HALF, ONE),
    ),
    Table(_runs("resnet-depth", "0.03", DEPTH), (0, ONE, TWO)),
    Table(
        _runs("vit-depth", "0.0003", VIT_DEPTH | {"the source, same updates, 1.95 T MACs": "source"}), (0, HALF, ONE)
    ),
    Table(
        _runs("vit-depth", "0.0003", {"the source, same MACs: after 390 updates, and after 774": "source-longer"}),
        (0, 390, None),
    ),
    Table(
        _runs(
            "resnet-template",
            "0.03",
            {
                "everything, 2,343,134 numbers": "mixture-0.3",
                "coefficients, 172 numbers": "mixture-0.3+coefficients",
            },
        ),
        (0, ONE, TWO),
    ),
    Table(
        _runs(
            "resnet-width",
            "0.03",
            {
                "`source`, 1.88 T MACs": "source",
                "`mixture`, bank `raw`, gain 0.3, 7.47 T": "mixture-0.3",
                "`source-longer`, 7.47 T": "source-longer",
            },
        ),
        (0, None),
    ),
    Table(
        _rates(
            "resnet-six",
            ("0.03", "0.1"),
            {
                "`source`, 5.6 T MACs": "source",
                "`mixture`, bank `raw`, gain 0.3, 22.4 T": "mixture-0.3",
                "`source-longer`, 22.4 T": "source-longer",
                "random weights, 22.4 T": "scratch",
            },
        ),
        (None,),
        seeds=False,
    ),
    Table(
        {
            "14 epochs | 0.03": Run("resnet-width", "mixture-0.3", "0.03"),
            "18 epochs | 0.03": Run("resnet-more", "mixture-0.3", "0.03"),
            "22 epochs | 0.03": Run("resnet-longer", "mixture-0.3", "0.03"),
            "22 epochs | 0.01": Run("resnet-longer", "mixture-0.3", "0.01"),
        },
        (0, ONE, TWO),
    ),
    Table(
        {
            length: [Run(folder, arm, "0.1") for arm in ("source", "mixture-0.3", "source-longer")]
            for length, folder in (("14 epochs, 79.03 %", "resnet-six"), ("38 epochs, 83.08 %", "resnet-late"))
        },
        (None,),
        seeds=False,
    ),
    Table(
        {
            "2 epochs": Run("resnet-width", "scratch", "0.1"),
            "5.5 epochs": Run("resnet-width", "scratch-longer", "0.1"),
            "6 epochs": Run("resnet-six", "scratch", "0.1"),
        },
        (None,),
    ),
    Table(_rates("resnet-width", ("0.03", "0.1"), WIDTH | SCRATCH), (ONE, TWO), seeds=False, seed=0),
    Table(_rates("vit-width", ("0.0003", "0.001"), VIT_WIDTH | SCRATCH), (HALF, ONE), seeds=False, seed=0),
    Table(
        {
            f"{label} | {lr}": Run("resnet-width-three", arm, lr)
            for label, arm in (("`mixture`, gain 0.3", "mixture-0.3"), ("`tile`", "tile"))
            for lr in ("0.03", "0.1")
        },
        (0, ONE, TWO, 3 * ONE),
        seeds=False,
    ),
    Table(
        _runs(
            "resnet-width",
            "0.03",
            {
                "plain, 7.47 T MACs": "mixture-0.3",
                "learning from the source, 8.10 T": "mixture-0.3+distil",
                "rates by the growth report, 7.47 T": "mixture-0.3+lr_factors",
            },
        ),
        (0, ONE, TWO),
    ),
]

SOURCE = 3.5  # what training `small_a` cost, in epochs of the large network
ENDS = {
    "large, from scratch": {
        2: Run("resnet-width", "scratch", "0.1"),
        2 + SOURCE: Run("resnet-width", "scratch-longer", "0.1"),
        6: Run("resnet-six", "scratch", "0.1"),
    },
    "large, grown": {
        SOURCE + 2: Run("resnet-width", "mixture-0.3", "0.03"),
        SOURCE + 3: Run("resnet-width-three", "mixture-0.3", "0.03"),
        SOURCE + 6: Run("resnet-six", "mixture-0.3", "0.03"),
    },
    "small, trained on": {
        SOURCE + 2: Run("resnet-width", "source-longer", "0.03"),
        SOURCE + 6: Run("resnet-six", "source-longer", "0.1"),
    },
}


def picture() -> str:
    """What runs of several lengths end with, against the cost of all training, for the README; an SVG file."""
    series = []
    for name, runs in ENDS.items():
        points = {cost: run.evaluations() for cost, run in runs.items()}
        ends = {cost: statistics.mean(found[max(found)].values()) for cost, found in points.items()}
        if name != "large, from scratch":
            ends = {SOURCE: statistics.mean(points[SOURCE + 2][0].values()), **ends}
        series.append(Series(name, tuple(ends), tuple(ends.values())))
    label = "cost of all training, in epochs of the large network"
    marks = ((SOURCE, "the small network is trained"),)
    return to_svg(Chart("top-1 at the end of a run, CIFAR-10", label, "top-1 in %", tuple(series), marks)) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
    for table in TABLES:
        print(*table.lines(), "", sep="\n")
