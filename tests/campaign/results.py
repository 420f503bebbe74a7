"""What the campaign has shown: kept among the results of docs/experiments, and read as `growtool compare` does."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from growtool.workflows.compare.costs import Costs, costs_of, fit_sentences, savings_table, sentences
from growtool.workflows.compare.savings import Curve, Measured
from tests.campaign.runs import STARTS, Run
from tests.campaign.train import Result

RESULTS = "results.jsonl"
_FOLDER = "campaign-"  # begins a campaign's folders in the table
_KEY = 4  # columns that tell a run: folder, arm, lr, seed


def write(results: Iterable[Result], file: Path) -> None:
    """A line of JSON for each."""
    file.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results), encoding="utf-8")


def read(file: Path) -> list[Result]:
    """What `write` wrote."""
    return [Result(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def rows_of(result: Result) -> list[list[str]]:
    """folder, arm, lr, seed, updates, training_macs, top1, eval_loss; a source that grew has a row of its own."""
    family, name, seed = result.run.split("/")
    run = [f"{_FOLDER}{family}", name, f"{result.lr:g}", seed.removeprefix("seed")]
    end = [str(result.updates), str(result.macs), f"{result.top1:.2f}", f"{result.eval_loss:.5f}"]
    if not result.before or result.start is None:
        return [[*run, *end]]
    return [[*run, "0", str(result.before), f"{result.start:.2f}", ""], [*run, *end]]


def read_kept(table: Path) -> list[Result]:
    """The campaign's results in a table that `keep` wrote, without seconds, and without starts that have no source."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["folder"].startswith(_FOLDER)]
    found: dict[str, Result] = {}
    for row in sorted(rows, key=lambda row: -int(row["updates"])):
        run = f"{row['folder'].removeprefix(_FOLDER)}/{row['arm']}/seed{row['seed']}"
        top1, macs, updates = float(row["top1"]), int(row["training_macs"]), int(row["updates"])
        if updates:
            found[run] = Result(run, float(row["lr"]), updates, macs, 0, top1, float(row["eval_loss"]), None, 0.0)
        else:
            found[run] = replace(found[run], before=macs, start=top1)
    return list(found.values())


def keep(results: Sequence[Result], table: Path) -> None:
    """Write them into a table of results, each in the place of an earlier one of the same run."""
    with table.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    found = [row for result in results for row in rows_of(result)]
    told = {tuple(row[:_KEY]) for row in found}
    others = [row for row in rows if tuple(row[:_KEY]) not in told]
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *others, *found])


def costs(results: Iterable[Result], runs: Mapping[str, Run], family: str) -> Costs | None:
    """Accuracy against MACs of every way to the large network of a family; None where nothing is known of it."""
    lengths = defaultdict[str, dict[tuple[int, int], dict[int, float]]](lambda: defaultdict(dict))
    for result in results:
        run = runs[result.run]
        if run.family != family or run.way in STARTS.values():
            continue
        lengths[run.way][result.macs, result.updates][run.seed] = result.top1
        if result.before and result.start is not None:  # right after growth
            lengths[run.way][result.before, 0][run.seed] = result.start
    curves = [
        Curve(way, family, way == "scratch", tuple(Measured(*cost, top1) for cost, top1 in sorted(points.items())))
        for way, points in lengths.items()
    ]
    return costs_of(curves) if curves else None


def told(found: Costs) -> Iterator[str]:
    """A table in Markdown of what is saved, bounds left out, and what it cannot tell."""
    pairs = [replace(pair, savings=tuple(s for s in pair.savings if not s.bound)) for pair in found.pairs]
    yield savings_table(replace(found, pairs=tuple(pairs))).to_markdown()
    yield from (*sentences(found), *fit_sentences(found))
