"""Results of the campaign among those that docs/experiments keeps."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.campaign.train import Result

RESULTS = "results.jsonl"
_KEY = 4  # columns that tell a run: folder, arm, lr, seed


def write(results: Iterable[Result], file: Path) -> None:
    """A line of JSON for each."""
    file.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results), encoding="utf-8")


def read(file: Path) -> list[Result]:
    """What `write` wrote."""
    return [Result(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def row_of(result: Result) -> list[str]:
    """folder, arm, lr, seed, updates, training_macs, top1, eval_loss."""
    family, name, seed = result.run.split("/")
    numbers = (f"{result.lr:g}", seed.removeprefix("seed"), result.updates, result.macs, f"{result.top1:.2f}")
    return [f"campaign-{family}", name, *map(str, numbers), f"{result.eval_loss:.5f}"]


def keep(results: Sequence[Result], table: Path) -> None:
    """Write them into a table of results, each in the place of an earlier one of the same run."""
    with table.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    found = [row_of(result) for result in results]
    told = {tuple(row[:_KEY]) for row in found}
    others = [row for row in rows if tuple(row[:_KEY]) not in told]
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *others, *found])
