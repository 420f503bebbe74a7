"""Comparing ways of growing: budgets, what is brought together, and the documents."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from growtool.checkpoint import ModelSpec
from growtool.errors import PlanError
from growtool.finetune.state.points import Point, read_points
from growtool.report.macs import training_macs
from growtool.workflows.compare.arms import Arm, scratch_arms
from growtool.workflows.compare.budget import Budget
from growtool.workflows.compare.results import Outcome, Spread, best_rate
from growtool.workflows.compare.trials import Failed, Trial
from growtool.workflows.compare.variant import Variant, names_of, read_variants, taken_names


@pytest.mark.parametrize(
    ("text", "steps"),
    [("3epochs", 30), ("1 epoch", 10), ("0.5epochs", 5), ("7steps", 7), ("1.2e6macs", 4), ("1macs", 1)],
)
def test_a_budget_is_a_number_of_updates(text: str, steps: int) -> None:
    assert Budget.parse(text, "--budget").steps(updates_per_epoch=10, batch_macs=300_000) == steps


@pytest.mark.parametrize("text", ["3", "epochs", "-1epochs", "0steps", "3 parsecs", ""])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"--of: found .* expected a positive number of epochs, steps or macs"):
        Budget.parse(text, "--of")


def test_training_an_image_costs_three_looks_at_it() -> None:
    assert training_macs(7, 11) == 3 * 7 * 11


def test_a_teacher_looks_at_each_image_once() -> None:
    assert replace(arm("a", grown=True, macs=7), teacher_macs=2).training_macs(11) == (3 * 7 + 2) * 11


def outcome(*top1: float, seed: int = 0, lr: float | None = None, interval: int = 10) -> Outcome:
    points = tuple(Point(n * interval, n * 120_000, 30.0 * n, value, 100.0 - value) for n, value in enumerate(top1))
    return Outcome(seed, lr, points)


def test_a_part_of_the_budget_is_the_last_evaluation_in_it() -> None:
    found = outcome(50, 60, 70)
    assert [found.at(step) for step in (0, 9, 10, 15, 20, 99)] == [50, 50, 60, 60, 70, 70]
    assert (found.start, found.final) == (50, 70)


def test_the_rate_that_ends_best_is_chosen() -> None:
    tried = [outcome(0, 50, lr=0.1), outcome(0, 70, lr=0.3), outcome(90, 60, lr=1.0)]
    assert best_rate(tried) == 0.3
    assert best_rate([]) is None


def test_one_value_has_no_deviation() -> None:
    assert Spread.of([4.0]) == Spread(4.0, None, 1)
    assert Spread.of([3.0, 5.0]).deviation == pytest.approx(2**0.5)


def test_evaluations_are_read_from_a_run(tmp_path: Path) -> None:
    events = [
        {"event": "epoch", "epoch": 0, "step": 0, "top1": 10.0, "eval_loss": 2.3, "macs": 0, "seconds": 1.5},
        {"event": "step", "step": 5, "loss": 1.0},
        {"event": "evaluation", "step": 5, "top1": 20.0, "eval_loss": 2.0, "macs": 9, "seconds": 4.5},
        {
            "event": "epoch",
            "epoch": 1,
            "step": 6,
            "top1": 30.0,
            "eval_loss": 1.0,
            "train_loss": 3.0,
            "macs": 9,
            "seconds": 5.5,
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert read_points(tmp_path) == (
        Point(0, 0, 1.5, 10.0, 2.3),
        Point(5, 9, 4.5, 20.0, 2.0),
        Point(6, 9, 5.5, 30.0, 1.0, 3.0),
    )


def arm(name: str, *, grown: bool, steps: int = 20, macs: int = 1000) -> Arm:
    promise, start = ("exact", (object(), object())) if grown else ("", (None, None))
    return Arm(name, ModelSpec("resnet18"), macs, 500, promise, steps, *start)  # type: ignore[arg-type]


def test_arms_that_differ_in_length_target_or_training_have_other_fingerprints() -> None:
    base = arm("a", grown=False)
    others = [
        replace(base, steps=21),
        replace(base, target=ModelSpec("resnet18", {"width": 2})),
        replace(base, variant=Variant("slow", {"lr": 0.1})),
        replace(base, variant=Variant("slow", {"lr": 0.2})),
    ]
    assert replace(base, name="b").fingerprint() == base.fingerprint()
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_a_variant_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "with teacher.yaml").write_text("kd_teacher: small\nkd_weight: 0.3\n")
    assert read_variants([tmp_path / "with teacher.yaml"]) == (
        Variant("with-teacher", {"kd_teacher": "small", "kd_weight": 0.3}),
    )


def test_everything_wrong_with_files_of_variants_is_told(tmp_path: Path) -> None:
    paths = [tmp_path / "a.yaml", tmp_path / "a.yml", tmp_path / "b.yaml"]
    for path in paths:
        path.write_text("lr: 0.1\n" if path.stem == "a" else "rate: 0.1\n")
    with pytest.raises(PlanError) as caught:
        read_variants(paths)
    assert [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems] == [
        "--variant: found the file name a twice, expected a name of its own for each; rename the files",
        "b.yaml:1:1 rate: unknown key, expected an option as `growtool finetune --help-all` and config.yaml of a run "
        "list them",
    ]


def test_no_plan_is_called_what_a_plan_with_a_variant_is() -> None:
    assert names_of([Path("tile+slow.yaml"), Path("my plan.yaml")]) == ["tile-slow", "my-plan"]


def test_names_of_plans_are_their_own() -> None:
    assert taken_names(["a", "b"], option="--plan", reserved=("scratch", "source")) == []
    assert taken_names(["a", "source-2", "a"], option="--plan", reserved=("scratch", "source")) == [
        "--plan: found the file name a, source-2 twice or reserved, expected a name of its own for each, not beginning "
        "with `scratch` or `source`; rename the files"
    ]


@pytest.fixture
def comparison(tmp_path: Path):
    from growtool.workflows.compare.compare import ArmResult, Comparison

    tile, scratch, longer, broken = (
        replace(arm("tile", grown=True), sunk=60_000),
        arm("scratch", grown=False),
        arm("scratch", grown=False, steps=40),
        arm("broken", grown=True),
    )

    class Study:
        seeds, rates, options, plans = 2, (0.1, 0.3), {"opt": "sgd"}, ()
        source_macs, source_epochs = None, None
        budgets, scratch_budgets = (Budget(20, "steps"),), (Budget(40, "steps"),)
        baselines = frozenset({"scratch", "source"})
        variants = (Variant("taught", {"kd_teacher": "small", "kd_weight": 0.3}),)
        output = tmp_path
        config = SimpleNamespace(batch_size=4)

        class source:  # noqa: N801
            label, spec = "small", ModelSpec("resnet18")

    failed = Failed(Trial(broken, 0, 0.1, tmp_path), "it broke")
    results = (
        ArmResult(tile, 0.1, (outcome(79, 80, 81), outcome(79, 80, 83, seed=1)), {0.1: 81.0, 0.3: 70.0}, ()),
        ArmResult(broken, None, (), {}, (failed,)),
        ArmResult(scratch, 0.3, (outcome(10, 50, 79), outcome(10, 60, 81, seed=1)), {0.3: 79.0}, ()),
        ArmResult(longer, 0.3, (outcome(10, 50, 60, 70, 83),), {}, ()),
    )  # fmt: skip
    return Comparison(Study(), results, source_macs=60_000)  # type: ignore[arg-type]


def test_rows_hold_mean_and_deviation_over_seeds(comparison) -> None:
    from growtool.workflows.compare.table import rows

    tile, broken, scratch, longer = rows(comparison)
    assert tile["start"] == {"mean": 79.0, "deviation": 0.0, "count": 2}
    assert tile["final"]["mean"] == 82.0 and tile["final"]["deviation"] == pytest.approx(2**0.5)
    assert (tile["at_25%"]["mean"], tile["at_50%"]["mean"], tile["at_75%"]["mean"]) == (79.0, 80.0, 80.0)
    assert tile["training_macs"] == scratch["total_macs"] == 3 * 1000 * 4 * 20
    assert tile["total_macs"] == 60_000 + tile["training_macs"], "the source included"
    assert (scratch["steps"], longer["steps"]) == (20, 40)
    assert broken["failed"] == ["broken for 20 updates, seed 0, lr 0.1: it broke"] and "final" not in broken


def test_documents_of_a_comparison(comparison) -> None:
    from growtool.workflows.compare.write import write

    write(comparison)
    out: Path = comparison.study.output
    lines = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [line["arm"] for line in lines] == ["tile", "broken", "scratch", "scratch"]
    assert lines[0]["final"] == "82.0"
    text = (out / "table.md").read_text()
    assert "| tile | exact | 500 | 1.00 k | 0.1 | 2 | 79.00 ± 0.00 |" in text
    assert "Failed: broken for 20 updates, seed 0, lr 0.1: it broke" in text
    assert (
        "Total MACs include 60.0 k for training the source (by the records beside it), in all arms that start from it."
        in text
    )
    assert "plus the cost of the source, and for 40 steps. A saving compares costs at equal accuracy" in text
    assert "| tile | 82.00 | 300 k | 381 k | 21 |" in text
    assert "tile: no saving is known at 83.00 %, because tile did not reach that accuracy." in text
    assert "The arm source trains the source without growing it" in text
    assert "Arms with +taught train with kd_teacher: small, kd_weight: 0.3 on top." in text
    data = json.loads((out / "results.json").read_text())
    assert data["variants"] == {"taught": {"kd_teacher": "small", "kd_weight": 0.3}}
    assert data["arms"][0]["lr_tried"] == {"0.1": 81.0, "0.3": 70.0}
    every = list(csv.DictReader(io.StringIO((out / "evaluations.csv").read_text())))
    assert [(line["arm"], line["seed"], line["updates"], line["top1"]) for line in every[2:5]] == [
        ("tile", "0", "20", "81"), ("tile", "1", "0", "79"), ("tile", "1", "10", "80"),
    ]  # fmt: skip
    assert len(every) == len(data["evaluations"]) == 17
    page = (out / "index.html").read_text()
    assert page.count("<svg") == 4 and "82.00 ± 1.41" in page and ">381 k</td>" in page


def test_curves_of_an_earlier_call_do_not_stay(comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    from growtool.workflows.compare import write as writing

    (comparison.study.output / "curves.png").write_bytes(b"old")
    monkeypatch.setattr(writing, "can_draw_png", lambda: False)
    writing.write(comparison)
    assert not (comparison.study.output / "curves.png").exists()


def test_curves_run_over_what_training_costs(comparison) -> None:
    from growtool.workflows.compare.table import charts

    costs, macs, steps, loss = charts(comparison)
    assert costs.log_x and costs.marks == ((60_000.0, "source"),)
    whole = {series.name: (series.x, series.y) for series in costs.series}
    tile, scratch = whole
    assert tile.startswith("tile: 500 parameters, exact, lr 0.") and scratch.startswith("scratch: 500 parameters")
    assert whole[tile] == ((60_000.0, 300_000.0), (79.0, 82.0)), "right after growth it has cost the source alone"
    assert whole[scratch] == ((240_000.0, 480_000.0), (80.0, 83.0))
    assert [series.name for series in macs.series] == [tile, scratch], "the longest run of each; a failed arm has none"
    assert steps.series[0].x == (0.0, 10.0, 20.0)
    assert macs.series[0].x == (0.0, 120_000.0, 240_000.0)
    assert loss.series[0].x == steps.series[0].x
    assert macs.series[0].y == (79.0, 80.0, 82.0)


def test_from_scratch_each_target_is_called_after_its_first_plan() -> None:
    wide, deep, other = (replace(arm(name, grown=True), target=ModelSpec(name[0])) for name in ("wide", "deep", "w2"))
    assert [fresh.name for fresh in scratch_arms([wide, deep, other])] == ["scratch-wide", "scratch-deep"]
    assert [fresh.name for fresh in scratch_arms([wide, other])] == ["scratch"]


def test_a_curve_leaves_out_what_a_seed_was_not_evaluated_after(comparison) -> None:
    from growtool.workflows.compare.table import charts

    tile = comparison.results[0]
    whole, other = tile.outcomes
    lacking = replace(other, points=(other.points[0], other.points[2]))
    results = (replace(tile, outcomes=(whole, lacking)), *comparison.results[1:])
    _, _, steps, _ = charts(replace(comparison, results=results))
    assert (steps.series[0].x, steps.series[0].y) == ((0.0, 20.0), (79.0, 82.0))


def test_what_does_not_apply_is_not_said(comparison) -> None:
    from growtool.workflows.compare.notes import notes

    assert any("each arm tried 0.1, 0.3 with seed 0" in note for note in notes(comparison))
    comparison.study.baselines, comparison.study.rates = frozenset({"source"}), (0.1,)
    assert "Learning rate: 0.1 for every arm." in notes(comparison)
    assert not any("kept the one" in note or "scratch" in note for note in notes(comparison))
