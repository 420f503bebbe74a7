"""Running the trials of a comparison: side by side, one failing alone, none taken for another."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from growtool.checkpoint import ModelSpec, open_checkpoint
from growtool.errors import GrowtoolError
from growtool.growing import grow
from growtool.plan import load_plan
from growtool.recipe import resolve
from growtool.report.macs import macs_of, training_macs
from growtool.report.trained import recorded_macs
from growtool.workflows.compare import compare as comparing
from growtool.workflows.compare.arms import Arm, scratch_arms, write_fresh
from growtool.workflows.compare.budget import Budget
from growtool.workflows.compare.lineup import lineup
from growtool.workflows.compare.study import Study, source_cost
from growtool.workflows.compare.trials import Failed, Runner, Trial
from tests.support.finetune import MODEL_ARGS, write_checkpoint

SPEC = ModelSpec("resnet18", MODEL_ARGS)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Runner, trial: Trial, device: str | None) -> None:
        raise GrowtoolError("nothing is trained here")

    monkeypatch.setattr(Runner, "train", fail)


def study(place: Path, output: Path, **changed: object) -> Study:
    options = {"opt": "sgd", "batch_size": 8, "workers": 0, "data": str(place / "data")}
    source, plans = open_checkpoint(place / "small"), [load_plan(place / "tile.yaml")]
    made = Study(source=source, plans=plans, options=options, output=output, budgets=(Budget(1, "steps"),))
    return replace(made, **changed)


def nothing(folder: Path, *, jobs: int = 1) -> Study:
    return Study(source=None, plans=(), options={}, output=folder, budgets=(), jobs=jobs)  # type: ignore[arg-type]


def runner(folder: Path, *, jobs: int = 1) -> Runner:
    return Runner(nothing(folder, jobs=jobs), {}, lambda line: None)


def test_starts_made_side_by_side_are_those_made_alone(place: Path, tmp_path: Path, untrained: None) -> None:
    """Models are built under hooks and a random state that all threads of a process share."""
    fresh = Arm("scratch", SPEC, 1, 1, "", 1)
    grown = Arm("tile", SPEC, 1, 1, "", 1, open_checkpoint(place / "small"), load_plan(place / "tile.yaml"))
    trials = [Trial(arm, seed, None, tmp_path / f"{arm.name}{seed}") for seed in range(6) for arm in (fresh, grown)]
    with runner(tmp_path, jobs=4) as running:
        outcomes = running.run(trials)
    assert [found.reason for found in outcomes if isinstance(found, Failed)] == ["nothing is trained here"] * 12
    for trial in trials[::2]:
        write_fresh(SPEC, tmp_path / "alone", trial.seed)
        expected = (tmp_path / "alone" / "model.safetensors").read_bytes()
        assert (trial.folder / "start" / "model.safetensors").read_bytes() == expected, trial.name


def test_whatever_stops_one_trial_the_others_go_on(tmp_path: Path, untrained: None) -> None:
    class Broken(Arm):
        def write_start(self, out: Path, seed: int, told: object = None) -> None:
            raise RuntimeError("out of luck")

    broken, sound = Broken("broken", SPEC, 1, 1, "", 1), Arm("sound", SPEC, 1, 1, "", 1)
    with runner(tmp_path) as running:
        found = running.run([Trial(arm, 0, None, tmp_path / arm.name) for arm in (broken, sound)])
    assert [failed.reason for failed in found] == ["RuntimeError: out of luck", "nothing is trained here"]


def test_a_run_that_goes_on_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("growtool.workflows.compare.trials.NEWS_SECONDS", 0.05)
    trial, said = Trial(Arm("a", SPEC, 1, 1, "", 40), 0, None, tmp_path), []
    running = Runner(nothing(tmp_path), {}, said.append)
    line = json.dumps({"event": "evaluation", "step": 30, "top1": 51.5})
    script = f"""
import pathlib, time
time.sleep(0.4)
pathlib.Path("run").mkdir()
pathlib.Path("run/metrics.jsonl").write_text({line!r})
time.sleep(0.4)
print("done")
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=tmp_path) as child:
        assert running.awaited(child, trial) == b"done\n"
    assert said == [
        f"a for 40 updates, seed 0: {at}" for at in ("reading images and checkpoint", "update 30 of 40, 51.50 %")
    ]


def test_a_trial_whose_run_is_gone_is_named(tmp_path: Path) -> None:
    trial = Trial(Arm("a", SPEC, 1, 1, "", 1), 0, None, tmp_path / "a")
    trial.folder.mkdir()
    (trial.folder / "result.json").write_text("{}")
    with runner(tmp_path) as running:
        (failed,) = running.run([trial])
    assert failed.reason.endswith(f"; to run it again, remove {tmp_path / 'a'}")


def test_seeds_do_not_go_on_where_no_rate_came_to_an_end(place: Path, tmp_path: Path, untrained: None) -> None:
    asked = study(place, tmp_path / "out", seeds=3, rates=(0.1, 0.3), baselines=frozenset())
    (tile,) = comparing.compare(asked, lambda line: None).results
    assert len(tile.failed) == 2 and not tile.outcomes
    assert sorted(path.name for path in (tmp_path / "out/tile-1").iterdir()) == ["lr0.1-seed0", "lr0.3-seed0"]


def test_a_shared_rate_is_among_the_settings(place: Path, tmp_path: Path) -> None:
    def settings(**changed: object) -> dict:
        asked = study(place, tmp_path, **changed)
        return comparing.shared_settings(asked)

    slow = {"opt": "sgd", "batch_size": 8, "data": str(place / "data"), "lr": 0.1}
    assert settings(options=slow) != settings(options=slow | {"lr": 0.2})
    assert settings(options=slow, rates=(0.3,)) == settings(options=slow | {"lr": 0.2}, rates=(0.3,))


def test_options_are_written_once_it_is_known_that_no_folder_is_foreign(
    place: Path, tmp_path: Path, untrained: None
) -> None:
    asked = study(place, tmp_path / "out", baselines=frozenset())
    comparing.compare(asked, lambda line: None)
    before = (tmp_path / "out/training.yaml").read_text()
    with pytest.raises(GrowtoolError, match="holds a trial of other settings"):
        comparing.compare(replace(asked, options={**asked.options, "weight_decay": 0.5}), lambda line: None)
    assert (tmp_path / "out/training.yaml").read_text() == before


def test_folders_of_baselines_do_not_depend_on_the_plans_beside_them() -> None:
    scratch = Arm("scratch", SPEC, 1, 1, "", 5)
    assert replace(scratch, name="scratch-2").folder == scratch.folder
    assert replace(scratch, steps=6).folder != scratch.folder
    assert replace(scratch, target=ModelSpec("resnet18")).folder != scratch.folder
    grown = replace(scratch, name="grown", second="1", teacher="2")
    (from_scratch,) = scratch_arms([grown])
    assert (from_scratch.second, from_scratch.teacher) == ("", "2"), "it learns from the same teacher"


def test_another_checkpoint_that_an_arm_reads_is_told_apart() -> None:
    arm = Arm("a", SPEC, 1, 1, "exact", 5)
    assert len({replace(arm, second=sha).fingerprint() for sha in ("", "1", "2")}) == 3
    assert len({replace(arm, teacher=sha).fingerprint() for sha in ("", "1", "2")}) == 3


def test_what_the_source_was_trained_from_counts(place: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_checkpoint(first)
    write_checkpoint(second)
    trained(first, tmp_path / "gone", 10)
    trained(second, first, 5)
    cost = {f.name: source_cost(study(place, tmp_path, source=open_checkpoint(f)), 24) for f in (first, second)}
    assert cost["second"] * 10 == cost["first"] * 15
    assert source_cost(study(place, tmp_path), 24) is None
    assert source_cost(study(place, tmp_path, source=open_checkpoint(second), source_epochs=1.0), 80) == cost["first"]


def test_the_cost_of_the_source_may_be_said_in_macs(place: Path, tmp_path: Path) -> None:
    assert source_cost(study(place, tmp_path, source_macs=13.2e12), 24) == 13_200_000_000_000
    assert source_cost(study(place, tmp_path, source_macs=0.0), 24) == 0, "of a source that is there anyway"


def trained(folder: Path, before: Path, steps: int) -> Path:
    config = {"checkpoint": str(before), "batch_size": 8}
    (folder / "training.json").write_text(json.dumps({"step": steps, "config": config}))
    return folder


def test_what_came_before_growth_counts_by_the_lineage(place: Path, tmp_path: Path) -> None:
    """Trained, grown, grown, trained: the records of the first run may be gone by then."""
    small = trained(write_checkpoint(tmp_path / "small"), tmp_path / "gone", 10)
    cost = recorded_macs(open_checkpoint(small))
    plan = load_plan(place / "tile.yaml")
    grow(resolve(plan.plan, open_checkpoint(small)), plan, tmp_path / "grown")
    (tmp_path / "again.yaml").write_text(
        "target: {model_args: {channels: [16, 32, 32, 48]}}\nwidth: {operator: tile}\n"
    )
    again = load_plan(tmp_path / "again.yaml")
    grow(resolve(again.plan, open_checkpoint(tmp_path / "grown")), again, tmp_path / "twice")
    shutil.rmtree(small)
    assert cost and recorded_macs(open_checkpoint(tmp_path / "twice")) == cost
    twice = open_checkpoint(trained(tmp_path / "twice", tmp_path / "grown", 5))
    assert recorded_macs(twice) == cost + training_macs(macs_of(twice.spec, where="it"), 40)


def test_a_second_source_has_a_cost_too(place: Path, tmp_path: Path) -> None:
    second = trained(write_checkpoint(tmp_path / "second"), tmp_path / "gone", 10)
    (tmp_path / "two.yaml").write_text(
        f"scale: 2\nwidth: {{operator: two_source}}\nsecond: {second}\nallow_lossy: true\n"
    )
    plans = [load_plan(tmp_path / "two.yaml"), load_plan(place / "tile.yaml")]
    longer = (Budget(7, "steps"), Budget(1, "steps"))
    two, tile, *others = lineup(study(place, tmp_path, plans=plans, scratch_budgets=longer), 3, 1000)
    assert two.sunk - 1000 == recorded_macs(open_checkpoint(second)) and tile.sunk == 1000
    assert [(arm.name, arm.steps, arm.sunk) for arm in others] == [
        ("scratch", 1, 0),
        ("scratch", 7, 0),
    ]


def test_a_budget_in_macs_trains_the_source_once(place: Path, tmp_path: Path) -> None:
    budgets, baselines = (Budget(1e9, "macs"), Budget(3e9, "macs")), frozenset({"source"})
    arms = lineup(study(place, tmp_path, budgets=budgets, baselines=baselines), 3, None)
    assert [arm.name for arm in arms] == ["tile", "tile", "source", "source"]
    assert all(arm.training_macs(8 * arm.steps) <= 3e9 for arm in arms)


def test_the_source_trains_for_as_many_macs_too(place: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("scale: {width: 4}\nwidth: {operator: tile}\n")
    budgets, plans = (Budget(1, "epochs"), Budget(2, "epochs")), [load_plan(tmp_path / "wide.yaml")]
    asked = study(place, tmp_path, plans=plans, budgets=budgets, baselines=frozenset({"source"}))
    short, long, *source = lineup(asked, 100, None)
    assert (short.steps, long.steps) == (100, 200) and {100, 200} < {arm.steps for arm in source}
    for arm in (short, long):
        spare = [arm.training_macs(arm.steps) - other.training_macs(other.steps) for other in source]
        assert any(0 <= macs < source[0].training_macs(1) for macs in spare), "to a whole number of updates"


@pytest.mark.parametrize(("name", "value"), [("lr_factors", True), ("carry_optimizer", True), ("train", "new")])
def test_what_needs_growth_is_not_shared_with_baselines(place: Path, tmp_path: Path, name: str, value: object) -> None:
    asked = study(place, tmp_path)
    asked = replace(asked, options={**asked.options, name: value})
    with pytest.raises(GrowtoolError, match=rf"found the options {name}, which need a grown checkpoint"):
        asked.require_possible()


@pytest.mark.slow
def test_sigterm_ends_the_runs_too(place: Path, tmp_path: Path) -> None:
    words = ["compare", place / "small", "--plan", place / "tile.yaml", "--data", place / "data", "--baseline", "none"]
    words += ["--budget", "100000steps", "-o", tmp_path / "out", "--device", "cpu", "--lr", "0.01"]
    words += ["--set", "batch_size=8", "--set", "workers=0", "--set", "log_interval=1", "--set", "eval_interval=50"]
    child = subprocess.Popen([sys.executable, "-m", "growtool", *map(str, words)], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "out/tile-100000/lr0.01-seed0/run/metrics.jsonl"
    while child.poll() is None and not (metrics.is_file() and '"step": 3,' in metrics.read_text()):
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGTERM)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 128 + signal.SIGTERM, said
    log = (tmp_path / "out/tile-100000/lr0.01-seed0/log.txt").read_text()
    assert "stopped after update" in log and "stopped" in said and "failed" not in said
    assert said.endswith(f"continue with\n{shlex.join(['growtool', *map(str, words)])}\n")
