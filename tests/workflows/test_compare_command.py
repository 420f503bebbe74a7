"""`growtool compare` from the command line, with real growing and training of tiny models."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from growtool.checkpoint import ModelSpec
from growtool.cli.app import app
from growtool.errors import GrowtoolError, PlanError
from growtool.growing.source import open_planned
from growtool.plan import load_plan
from tests.support.terminal import in_pipe, in_terminal

OPTIONS = ["--set", "opt=sgd", "--set", "batch_size=8", "--set", "workers=0", "--set", "log_interval=1"]


def run(place: Path, *arguments: str, output: str = "out") -> tuple[int, dict, str]:
    words = ["compare", str(place / "small"), "--data", str(place / "data"), "-o", str(place / output), "--json"]
    result = CliRunner().invoke(app, [*words, "--device", "cpu", *OPTIONS, *arguments])
    if isinstance(result.exception, GrowtoolError):
        raise result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


COMPARED = ["--plan", "tile.yaml", "--budget", "2epochs", "--budget", "1epochs", "--source-epochs", "1.1"]
COMPARED += ["--scratch-budget", "9steps", "--baseline", "scratch", "--baseline", "source", "--jobs", "2"]


@pytest.fixture(scope="module")
def compared(place: Path) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        code, found, said = run(place, *COMPARED)
    assert code == 0, said
    return found


def test_it_is_refused_under_torchrun(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match=r"found 2 processes, expected one.*without torchrun, with --jobs N.*--device"):
        run(place, *COMPARED, output="never")
    assert not (place / "never").exists()


def test_plans_are_trained_beside_scratch(place: Path, compared: dict) -> None:
    lengths = lengths_of(compared)
    tile, cost = next(arm for arm in compared["arms"] if arm["steps"] == 6), compared["source_training_macs"]
    more = round(cost / (3 * tile["macs"] * 8))
    assert lengths["tile"] == [3, 6]
    assert lengths["scratch"] == [3, 6, 9] and more == 3, "with the source's cost on top, too"
    assert tile["arm"] == "tile" and tile["promise"] == "exact"
    assert tile["training_macs"] == 3 * tile["macs"] * 8 * 6 == tile["total_macs"] - cost
    evaluated = [json.loads(line) for line in (place / "out/tile-6/seed0/run/metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in evaluated if e["event"] in ("epoch", "evaluation")] == [0, 1, 2, 3, 4, 5, 6], "quarters"
    written = {path.name for path in (place / "out").iterdir()}
    assert {"table.md", "table.csv", "savings.csv", "results.json", "index.html", "training.yaml"} <= written


def lengths_of(document: dict) -> dict[str, list[int]]:
    lengths: dict[str, list[int]] = {}
    for arm in document["arms"]:
        lengths.setdefault(arm["arm"], []).append(arm["steps"])
    return lengths


def test_every_length_is_a_run_of_its_own(place: Path, compared: dict) -> None:
    """With its own schedule: the shorter one has come down with its rate where it ends."""
    rates = {}
    for steps in (3, 6):
        run = place / f"out/tile-{steps}/seed0/run"
        events = [event for event in _events(run) if event["event"] == "step"]
        assert [event["step"] for event in events] == list(range(1, steps + 1))
        rates[steps] = [event["lr"] for event in events]
    assert rates[3][-1] < min(rates[3][0], rates[6][2]) and rates[6][-1] < rates[6][2]
    assert _losses(place / "out/tile-3/seed0/run")[0] == _losses(place / "out/tile-6/seed0/run")[0]


def test_accuracy_stands_against_all_that_led_to_it(compared: dict) -> None:
    """From the start of what is grown, which has cost the source alone, to the end of each of its lengths."""
    cost = compared["source_training_macs"]
    for curve in compared["curves"]:
        arms = [arm for arm in compared["arms"] if arm["arm"] == curve["arm"]]
        start = [] if curve["arm"] == "scratch" else [(cost, arms[0]["start"]["mean"])]
        points = [(point["total_macs"], point["top1"]["mean"]) for point in curve["points"]]
        assert points == start + [(arm["total_macs"], arm["final"]["mean"]) for arm in arms]
    assert {curve["arm"] for curve in compared["curves"]} == {"tile", "scratch", "source"}
    assert {saving["arm"] for saving in compared["savings"]} == {"tile", "source"}
    for saving in compared["savings"]:
        assert (saving["saved"] is None) == bool(saving["reason"])
        if not saving["reason"]:
            assert saving["saved"] == pytest.approx(1 - saving["macs"] / saving["reference_macs"])
            assert saving["bound"] in ("", "at least", "at most")


def test_a_second_call_repeats_nothing(place: Path, compared: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("result.json")}
    code, again, said = run(place, *COMPARED)
    assert code == 0 and again["arms"] == compared["arms"] and said.count("done before") == len(again["arms"])
    assert {path: path.stat().st_mtime_ns for path in place.rglob("result.json")} == before


def test_a_terminal_shows_costs_and_what_is_not_known(place: Path, compared: dict) -> None:
    """In 80 columns and in a pipe, from runs that were done before; `place/out` holds the same."""
    words = ["compare", "small", "--data", "data", "-o", "out", "--device", "cpu", *OPTIONS, *COMPARED]
    seen, piped = in_terminal(words, place), in_pipe(words, place)
    assert seen.code == piped.code == 0 and len(seen.longest()) <= 80
    saved = [saving for saving in compared["savings"] if saving["saved"] is not None]
    lines = piped.streams["stdout"].splitlines()
    assert any(re.search(r"arm +top-1 % +total MACs +from scratch +saved %", line) for line in lines) == bool(saved)
    for saving in saved:
        told = re.compile(rf"^ *{saving['arm']} +{saving['top1']:.2f} .* {100 * saving['saved']:.0f}$")
        assert any(told.search(line) for line in lines)
    unknown = (
        "where its curve crosses that of scratch is not known; a fit needs 4 different costs of each, and tile has 3"
    )
    assert unknown in " ".join(piped.streams["stdout"].split()) and unknown in " ".join(" ".join(seen.lines).split())
    assert "for training the source, in all arms that start from it." in piped.streams["stderr"]
    page = (place / "out/index.html").read_text()
    assert unknown in page and unknown in (place / "out/table.md").read_text()


def test_a_folder_of_other_settings_is_refused(place: Path, compared: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(GrowtoolError, match=r"holds a trial of other settings .* choose another --output or remove it"):
        run(place, *COMPARED, "--set", "weight_decay=0.5")


def test_the_source_is_trained_on_beside_the_plans(place: Path, compared: dict) -> None:
    """For as many updates, and for as many MACs; it starts as it is, and nothing is written for that."""
    assert lengths_of(compared)["source"] == [3, 6], "as many MACs are as many updates of so similar a network"
    tile = next(arm for arm in compared["arms"] if arm["arm"] == "tile" and arm["steps"] == 6)
    source, longer = [arm for arm in compared["arms"] if arm["arm"] == "source"]
    assert source["parameters"] < tile["parameters"]
    assert 0 <= tile["training_macs"] - longer["training_macs"] < source["training_macs"] / source["steps"]
    assert source["start"] == longer["start"] == tile["start"] and source["promise"] is None
    assert not (place / "out" / source["folder"] / "seed0/start").exists()


@pytest.mark.slow
def test_every_plan_trains_with_every_variant_too(place: Path) -> None:
    """Distillation counts the teacher's passes; carried moments are grown from those beside the source."""
    data, recipe = ["--data", str(place / "data")], ["--config", str(place / "recipe.yaml")]
    (place / "recipe.yaml").write_text("opt: sgd\nmomentum: 0.9\nbatch_size: 8\nworkers: 0\nlog_interval: 1\n")
    trained, teacher = place / "trained", place / "trained/last"
    words = ["finetune", str(place / "small"), *data, *recipe, "-o", str(trained), "--steps", "2", "--device", "cpu"]
    assert CliRunner().invoke(app, words).exit_code == 0
    (place / "taught.yaml").write_text(f"kd_teacher: {teacher}\n")
    (place / "carried.yaml").write_text("carry_optimizer: true\n")
    words = ["compare", str(teacher), *data, *recipe, "-o", str(place / "varied"), "--device", "cpu", "--json"]
    words += ["--plan", str(place / "tile.yaml"), "--variant", str(place / "taught.yaml"), "--baseline", "none"]
    result = CliRunner().invoke(app, [*words, "--variant", str(place / "carried.yaml"), "--budget", "3steps"])
    assert result.exit_code == 0, result.stderr
    plain, taught, carried = json.loads(result.stdout)["arms"]
    assert [arm["arm"] for arm in (plain, taught, carried)] == ["tile", "tile+taught", "tile+carried"]
    losses = {arm["arm"]: _losses(place / "varied" / arm["folder"] / "seed0/run") for arm in (plain, taught, carried)}
    assert losses["tile"][0] == losses["tile+carried"][0], "the same start"
    assert losses["tile"][1] != losses["tile+carried"][1], "the first update has the source's momentum in it"
    assert losses["tile"][0] != losses["tile+taught"][0], "the loss has the teacher in it"
    spent = _events(place / "varied/tile+taught-3/seed0/run")[-1]["macs"]
    assert taught["training_macs"] == spent > plain["training_macs"] == carried["training_macs"]


def _events(run: Path) -> list[dict]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if "macs" in event]


def _losses(run: Path) -> list[float]:
    return [event["loss"] for event in _events(run) if event["event"] == "step"]


@pytest.mark.slow
def test_a_trial_that_fails_is_named_and_the_others_go_on(place: Path) -> None:
    arguments = ["--plan", str(place / "tile.yaml"), "--baseline", "none", "--budget", "1steps"]
    code, found, said = run(place, *arguments, "--lr", "1e30", "--lr", "0.01", output="failing")
    (tile,) = found["arms"]
    assert code == 1
    assert tile["lr"] == 0.01 and tile["seeds"] == 1 and list(tile["lr_tried"]) == ["0.01"]
    (failure,) = tile["failed"]
    assert (
        failure.startswith("tile for 1 update, seed 0, lr 1e+30: growtool finetune ended with 1: ") and "failed" in said
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "3"], r"--budget: found '3', expected a positive number"),
        (
            ["--budget", "1epochs", "--scratch-budget", "0steps"],
            r"--scratch-budget: found '0steps', expected a",
        ),
        (
            ["--budget", "1epochs", "--scratch-budget", "9epochs", "--baseline", "none"],
            r"--scratch-budget: found lengths for training from scratch, and no baseline that does; add --baseline",
        ),
        (
            ["--budget", "1epochs", "--source-epochs", "3", "--source-macs", "13.2e12"],
            r"--source-epochs and --source-macs: found both, expected one of them, .*; drop one",
        ),
        (["--budget", "1epochs", "--source-macs", "inf"], r"--source-macs: found inf, expected a finite number"),
        (["--budget", "1epochs", "--set", "epochs=3"], r"found the options epochs, expected none of those"),
        (
            ["--budget", "1epochs", "--baseline", "none", "--baseline", "source"],
            r"--baseline: found none, source, expected none alone; drop it or the others",
        ),
        (
            ["--budget", "1epochs", "--set", "smoothing=3"],
            r"--set smoothing=3: found 3, expected less than 1",
        ),
        (
            ["--budget", "1epochs", "--lr", "0.1", "--variant", "undue.yaml"],
            r"--variant undue: found the options batch_size, lr, seed, expected none that has to be the same for all",
        ),
        (
            ["--budget", "1epochs", "--variant", "wrong.yaml"],
            r"--variant wrong: wrong.yaml:1:1 kd_weight: given without --kd-teacher",
        ),
        (
            ["--budget", "1epochs", "--variant", "carry.yaml"],
            r"tile\+carry: carry_optimizer: found no optimizer\.json beside .*, expected a checkpoint that",
        ),
        (["--budget", "1epochs", "--lr", "0.1", "--lr", "-1"], r"--lr: found -1.0, expected at least 0"),
        (["--budget", "1epochs", "--set", "batch_size=999"], r"batch_size: found 999, expected at most the 24"),
    ],
)
def test_bad_questions_are_refused_before_anything_is_written(
    place: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    Path("undue.yaml").write_text("lr: 0.1\nbatch_size: 4\nseed: 3\n")
    Path("wrong.yaml").write_text("kd_weight: 0.3\n")
    Path("carry.yaml").write_text("carry_optimizer: true\n")
    with pytest.raises(GrowtoolError, match=message):
        run(place, "--plan", str(place / "tile.yaml"), *arguments, output="refused")
    assert not (place / "refused").exists()


def test_every_device_named_gets_a_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compare(study, told):
        asked.append((study.jobs, study.devices, study.rates))
        raise GrowtoolError("enough")

    monkeypatch.setattr("growtool.workflows.compare.compare.compare", compare)
    words = ["compare", str(place / "small"), "--plan", str(place / "tile.yaml"), "--budget", "1steps"]
    for more in ([], ["--device", "cuda:0", "--device", "cuda:1"], ["--jobs", "3", "--lr", "0.1", "--lr", "0.1"]):
        CliRunner().invoke(app, [*words, *more])
    assert asked == [(1, (), ()), (2, ("cuda:0", "cuda:1"), ()), (3, (), (0.1,))]


def test_a_lone_file_is_what_the_plans_say(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that say different things are refused, and so is a baseline that would read none."""
    tile, lone = (place / "tile.yaml").read_text(), tmp_path / "lone.safetensors"
    lone.write_bytes((place / "small/model.safetensors").read_bytes())
    args = json.loads((place / "small/config.json").read_text())["model_args"]
    for name, told in (("named", {"model": "resnet18", "model_args": args}), ("other", {"model": "resnet34"})):
        (tmp_path / f"{name}.yaml").write_text(tile + "".join(f"{key}: {json.dumps(told[key])}\n" for key in told))
    asked = []
    monkeypatch.setattr(
        "growtool.workflows.compare.lineup.grown_arms", lambda source, plans: asked.append(source.spec) or 1 / 0
    )

    def compare(*words: str) -> BaseException | None:
        common = ["compare", str(lone), "--plan", str(tmp_path / "named.yaml"), "--budget", "1steps"]
        return CliRunner().invoke(app, [*common, "--data", str(place / "data"), *words]).exception

    compare("--plan", str(place / "tile.yaml"), "--set", "batch_size=8")
    assert asked == [ModelSpec("resnet18", args)]
    assert re.match(
        r"model: found 'resnet18' and 'resnet34' in the plans for .*lone\.safetensors, expected the same in all",
        str(compare("--plan", str(tmp_path / "other.yaml"))),
    )
    assert "--baseline source: found that plans say which model" in str(compare("--baseline", "source"))
    assert len(asked) == 1
    told = [load_plan(path).plan for path in (tmp_path / "named.yaml", place / "tile.yaml")]
    with pytest.raises(PlanError, match=r"^model_args: found .* and 'nothing' in the plans for .*/small, expected the"):
        open_planned(place / "small", told)


def test_every_problem_of_every_plan_is_told(place: Path) -> None:
    for name in ("one", "two"):
        (place / f"{name}.yaml").write_text(
            "target: {model_args: {channels: [5, 9, 9, 13]}}\nwidth: {operator: tile}\n"
        )
    with pytest.raises(GrowtoolError) as caught:
        run(place, "--plan", str(place / "one.yaml"), "--plan", str(place / "two.yaml"), "--budget", "1steps")
    assert {Path(problem.split(":")[0]).name for problem in caught.value.problems} == {"one.yaml", "two.yaml"}
