"""Train what shows how much growing saves at equal accuracy, the most telling first.

    python -m tests.campaign --pack PARQUET runs/cifar10.npz
    python -m tests.campaign runs/cifar10.npz [--device cuda] [--minutes 60] [-o runs/campaign]

    python -m tests.campaign --keep runs/campaign/results.jsonl ...
    python -m tests.campaign --tell

Every run is independent of the others but for its sources, is gone on with where it was cut short, and is skipped
where it is done. Results go to results.jsonl in the output. --keep writes them into docs/experiments/results.csv, each
in the place of an earlier one of the same run; --tell prints what stands there, and draws it beside.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from growtool.report.chart import to_svg
from growtool.workflows.compare.costs import cost_chart
from tests.campaign.images import pack, random_splits, read
from tests.campaign.results import RESULTS, costs, keep, read_kept, told, write
from tests.campaign.results import read as read_results
from tests.campaign.runs import TRAINING, all_runs
from tests.campaign.train import Place, Result, done, trained

KEPT = Path("docs/experiments/results.csv")


def main(words: Sequence[str] | None = None) -> None:
    """Pack the images, or run what there is time for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.partition("\n")[0])
    parser.add_argument("images", type=Path, nargs="?", help="a file that --pack wrote")
    pack_help = "write that file from train.parquet and test.parquet, columns image and label (pyarrow)"
    parser.add_argument("--pack", type=Path, nargs=2, metavar=("PARQUET", "FILE"), help=pack_help)
    parser.add_argument("--keep", type=Path, nargs="+", metavar="RESULTS", help=f"write them into {KEPT}")
    parser.add_argument("--tell", action="store_true", help="print what is kept, and draw it beside")
    parser.add_argument("--device", default="cpu", help="a torch device")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further run begins")
    parser.add_argument("--only", nargs="+", default=(), help="runs whose label holds one of these")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on random images")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/campaign"))
    chosen = parser.parse_args(words)
    if chosen.pack:
        pack(*chosen.pack)
        return
    if chosen.keep:
        keep([result for file in chosen.keep for result in read_results(file)], KEPT)
        return
    if chosen.tell:
        tell(KEPT)
        return
    if not chosen.tiny and chosen.images is None:
        parser.error("name the images, or give --tiny")
    device = torch.device(chosen.device)
    splits = random_splits(1280, 200) if chosen.tiny else read(chosen.images, device)
    place = Place(chosen.output.resolve(), splits, chosen.device, chosen.tiny)
    warnings.simplefilter("ignore")
    for result in run_all(place, chosen.only, time.monotonic() + 60 * chosen.minutes):
        print(f"{result.run:40} {result.macs:.3e} MACs  {result.top1:6.2f} %  {result.seconds:7.1f} s", flush=True)


def tell(table: Path) -> None:
    """What is saved at equal accuracy, family by family, and a chart of each beside the table."""
    for family, (lines, picture) in shown(table).items():
        print(f"# {family}\n", *lines, sep="\n")
        table.with_name(f"campaign-{family}.svg").write_text(picture, encoding="utf-8")


def shown(table: Path) -> dict[str, tuple[list[str], str]]:
    """Family -> what the results in a table say of it in Markdown, and a chart of it."""
    runs, found = {run.label: run for run in all_runs()}, read_kept(table)
    ways = {family: costs(found, runs, family) for family in TRAINING}
    return {
        family: (list(told(way)), to_svg(cost_chart(way, None)) + "\n")
        for family, way in ways.items()
        if way is not None
    }


def run_all(place: Place, only: Sequence[str], deadline: float) -> Iterator[Result]:
    """Every run that is asked for, in order, as long as there is time; results of all that is done go to the output."""
    runs = {run.label: run for run in all_runs()}
    place.root.mkdir(parents=True, exist_ok=True)
    for label, run in runs.items():
        if only and not any(part in label for part in only):
            continue
        if time.monotonic() > deadline:
            return
        result = trained(run, place, runs)
        write(done(place, runs.values()), place.root / RESULTS)
        yield result


if __name__ == "__main__":
    main()
