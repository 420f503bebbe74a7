"""The campaign runs, goes on where it was cut short, and tells what each run has cost."""

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.campaign.__main__ import KEPT, main
from tests.campaign.images import CLASSES, SIDE, Training, random_splits, read, write_packed
from tests.campaign.results import costs, keep, read_kept, rows_of
from tests.campaign.results import read as read_results
from tests.campaign.results import write as write_results
from tests.campaign.runs import SEEDS, all_runs, once, scratch
from tests.campaign.train import Place, Result, needed, trained


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("campaign"), random_splits(1280, 50), "cpu", tiny=True)


def test_every_run_comes_after_those_that_it_begins_with():
    runs = all_runs()
    labels = [run.label for run in runs]
    assert {need for run in runs for need in needed(run)} <= set(labels)
    assert [run.name for run in runs[:2]] == ["scratch-15", "scratch-30"]
    own_seed = [(run, need) for run in runs for need in needed(run) if need.endswith(f"seed{run.seed}")]
    assert all(labels.index(need) < labels.index(run.label) for run, need in own_seed)
    assert {run.seed for run in runs} == set(range(SEEDS))


@pytest.mark.parametrize(
    "name",
    [
        "resnet/both-at-80%-10/seed0",
        pytest.param("vit/step-by-step-37/seed0", marks=pytest.mark.slow),
        pytest.param("vit/mirror-from-14-2/seed0", marks=pytest.mark.slow),
        pytest.param("resnet/two_source-from-14-2/seed1", marks=pytest.mark.slow),
        pytest.param("resnet/width-at-80%-reset+new_warmup-20/seed0", marks=pytest.mark.slow),
        pytest.param("vit/width-at-80%-shrink_perturb-20/seed0", marks=pytest.mark.slow),
        pytest.param("vit/depth-at-90%-20/seed0", marks=pytest.mark.slow),
    ],
)
def test_a_run_costs_what_it_and_its_sources_took(place, name):
    runs = {run.label: run for run in all_runs()}
    found = trained(runs[name], place, runs)
    below = sum(trained(runs[need], place, runs).macs for need in needed(runs[name]))
    assert found.macs > below >= 0
    assert found.start is not None
    assert 0 <= found.top1 <= 100
    assert trained(runs[name], place, runs) == found, "what is done is read, not trained again"


def test_half_the_width_costs_about_a_quarter(place):
    small, large = (scratch("resnet", 3, size=size) for size in ("half", "large"))
    runs = {run.label: run for run in (small, large)}
    ratio = trained(small, place, runs).macs / trained(large, place, runs).macs
    assert 0.2 < ratio < 0.4


def test_growth_falls_into_the_stable_part():
    for run in all_runs():
        if "decay" in run.rate:
            *before, after = (stage for stage in run.stages if not isinstance(stage, Mapping))
            assert run.rate["warmup"] <= sum(before) / run.length <= 1 - run.rate["decay"] + 1e-9
            assert sum(before) + after == pytest.approx(run.length)
    assert once("vit", "depth", 10, 0.9).rate["decay"] == pytest.approx(0.1)


def test_batches_follow_from_seed_and_epoch():
    split = random_splits(64, 1)["train"]
    one, two = (list(Training(split, 16, seed=3).epoch(2)) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))
    rest = list(Training(split, 16, seed=3).epoch(2, skip=1))
    assert torch.equal(rest[0][0], one[1][0])
    other = next(Training(split, 16, seed=3).epoch(3))
    assert not torch.equal(other[0], one[0][0])
    assert one[0][0].shape == (16, 3, SIDE, SIDE)


def test_packed_images_are_decoded(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 10, 10)).save(buffer, "JPEG")
    files = [buffer.getvalue()] * 2
    write_packed({"train": (files, [0, 1]), "validation": (files[:1], [CLASSES - 1])}, tmp_path / "images.npz")
    found = read(tmp_path / "images.npz", torch.device("cpu"))
    assert found["train"].images.shape == (2, 3, SIDE, SIDE)
    assert found["validation"].labels.tolist() == [CLASSES - 1]
    assert abs(int(found["train"].images[0, 0, 5, 5]) - 200) < 5


def test_a_result_takes_the_place_of_an_earlier_one(place, tmp_path: Path):
    run = scratch("resnet", 3)
    result = trained(run, place, {run.label: run})
    write_results([result], tmp_path / "results.jsonl")
    assert read_results(tmp_path / "results.jsonl") == [result]
    table = tmp_path / "results.csv"
    table.write_text("folder,arm,lr,seed,updates,training_macs,top1,eval_loss\nother,a,0.1,0,1,2,3,4\n")
    for _ in range(2):
        keep([result], table)
    assert table.read_text().splitlines()[1:] == ["other,a,0.1,0,1,2,3,4", *map(",".join, rows_of(result))]


def test_a_table_gives_back_what_was_kept_in_it(tmp_path: Path):
    fresh = Result("vit/half-14/seed0", 0.001, 5460, 10, 0, 60.0, 1.25, None, 0.0)
    grown = Result("vit/mixture-from-14-2/seed0", 0.1, 780, 30, 10, 70.0, 1.0, 60.0, 0.0)
    table = tmp_path / "results.csv"
    table.write_text("folder,arm,lr,seed,updates,training_macs,top1,eval_loss\nother,a,0.1,0,1,2,3,4\n")
    keep([grown, fresh], table)
    assert sorted(read_kept(table), key=lambda result: result.run) == [fresh, grown]


def test_what_is_saved_is_told_from_the_costs_of_all_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Scratch gains ten points with each doubling; grown in depth, half of it is enough."""
    runs = {run.label: run for run in all_runs()}
    epoch, found = 10**12, []
    for n, length in enumerate((3, 6, 10, 20)):
        found.append(Result(f"resnet/scratch-{length}/seed0", 0.1, 1, epoch * 2**n, 0, 50 + 10 * n, 1.0, None, 1.0))
    for n, length in enumerate((10, 20, 40)):
        label = f"resnet/depth-at-80%-{length}/seed0"
        found.append(Result(label, 0.1, 1, epoch * 2**n, 0, 60 + 10 * n, 1.0, 55.0, 1.0))
    assert {result.run for result in found} <= runs.keys()
    ways = costs(found, runs, "resnet")
    assert ways is not None
    (pair,) = ways.pairs
    saved = {saving.top1: saving.saved for saving in pair.savings}
    assert saved[60] == saved[70] == pytest.approx(0.5)
    assert costs(found, runs, "vit") is None
    monkeypatch.chdir(tmp_path)
    KEPT.parent.mkdir(parents=True)
    KEPT.write_text("folder,arm,lr,seed,updates,training_macs,top1,eval_loss\n")
    write_results(found, tmp_path / "results.jsonl")
    main(["--keep", "results.jsonl"])
    main(["--tell"])
    assert "| depth-at-80% | 70.00 | 2.00 T | 4.00 T | 50 |" in capsys.readouterr().out
    assert KEPT.with_name("campaign-resnet.svg").read_text().startswith("<svg")


def test_a_result_right_after_growth_costs_what_its_source_did():
    runs = {run.label: run for run in all_runs()}
    grown = Result("vit/mixture-from-14-2/seed0", 0.1, 1, 30, 10, 70.0, 1.0, 60.0, 1.0)
    ways = costs([grown], runs, "vit")
    assert ways is not None
    ((curve, _),) = ways.curves
    assert [(point.macs, point.steps, dict(point.top1)) for point in curve.points] == [
        (10, 0, {0: 60.0}), (30, 1, {0: 70.0})
    ]  # fmt: skip
