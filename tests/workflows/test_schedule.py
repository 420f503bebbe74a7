"""Train, grow, train, grow again: in one call, in several, or killed in between, it is the same."""

import json
import re
import shlex
import signal
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from growtool.checkpoint import open_checkpoint
from growtool.cli.app import app
from growtool.errors import CheckpointError, PlanError
from growtool.workflows.schedule.curves import curve_charts, curve_table, read_curve
from growtool.workflows.schedule.file import LoadedSchedule, load_schedule
from growtool.workflows.schedule.run import read_records, run_schedule
from growtool.workflows.schedule.stages import Train
from tests.support.finetune import UNCLOSED_IMAGES, Notices, Signal, write_checkpoint, write_data, write_images
from tests.support.processes import in_processes, killed

pytestmark = UNCLOSED_IMAGES
SCHEDULE = """
checkpoint: model
train: {data: data, lr: 1e-2, batch_size: 8, workers: 0, device: cpu, log_interval: 1, epochs: 1}
stages:
  - train: {steps: 2}
  - grow: {target: {model_args: {channels: [8, 16, 16, 24]}}, width: {operator: tile}}
  - train: {kd_teacher: previous}
  - grow: deeper.yaml
  - train: {macs: MACS}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model", layers=[1, 2, 1, 1])
    write_data(tmp_path / "data")
    (tmp_path / "deeper.yaml").write_text("target: {scale: {depth: [1, 3, 1, 1]}}\ndepth: {operator: zero_out}\n")
    path = tmp_path / "schedule.yaml"
    path.write_text(SCHEDULE.replace("MACS", "1e9"))
    return path


def weights(output: Path) -> bytes:
    return (output / "05-train/last/model.safetensors").read_bytes()


def test_every_stage_starts_where_the_one_before_ended(file: Path, tmp_path: Path):
    records = run_schedule(load_schedule(file), tmp_path / "out")
    assert [record.kind for record in records] == ["train", "grow", "train", "grow", "train"]
    assert [record.steps for record in records][:4] == [2, 0, 3, 0]
    assert [record.parameters for record in records[1::2]] == [record.parameters for record in records[2::2]]
    deeper = open_checkpoint(tmp_path / "out/05-train/last").spec.model_args
    assert (list(deeper["layers"]), list(deeper["channels"])) == ([1, 3, 1, 1], [8, 16, 16, 24])
    spent = records[4].macs
    per_update = spent // records[4].steps
    assert spent <= 1e9 < spent + per_update
    written = json.loads((tmp_path / "out/schedule.json").read_text())
    assert written["macs"] == sum(record.macs for record in records)
    taught = json.loads((tmp_path / "out/03-train/last/training.json").read_text())
    assert taught["config"]["kd_teacher"] == str(tmp_path / "out/01-train/last")


def test_a_schedule_that_is_stopped_says_how_it_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growtool: Callable[..., tuple[int, str, str]]
):
    """Within a stage, and at its last update, where the next one would begin."""
    for after, saved in ((1, "01-train/checkpoints/step-00000001"), (2, "01-train/last")):
        stopping = Signal(after, signal.SIGTERM)
        monkeypatch.setattr(
            "growtool.cli.commands.schedule.shown_progress", lambda watcher=stopping: nullcontext(watcher)
        )
        code, _, said = growtool("schedule", file, "-o", tmp_path / str(after))
        assert code == 143
        assert f"after update {after}, saved as {tmp_path}/{after}/{saved}; continue with\n" in said
        line = shlex.split(said.splitlines()[-1])
        assert line == ["growtool", "schedule", str(file), "-o", str(tmp_path / str(after)), "--resume"]
        monkeypatch.setattr("growtool.cli.commands.schedule.shown_progress", lambda: nullcontext(None))
        assert growtool(*line[1:])[0] == 0


@pytest.mark.slow
def test_killed_at_any_point_and_resumed_it_is_the_same(file: Path, tmp_path: Path):
    """Killed within the first stage, within the third, and between growing and the fifth's first checkpoint."""
    loaded = load_schedule(file)
    run_schedule(loaded, tmp_path / "whole")
    for updates in (1, 4, 5):
        stopping = Signal(updates, signal.SIGKILL)
        killed(partial(run_schedule, loaded, tmp_path / "parts", resume=True, progress=stopping))
    run_schedule(loaded, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    again = run_schedule(loaded, tmp_path / "parts", resume=True)
    assert [record.number for record in again] == [1, 2, 3, 4, 5]


def run_as_rank(loaded: LoadedSchedule, output: Path, rank: int) -> None:
    assert [record.kind for record in run_schedule(loaded, output)] == ["train", "grow", "train", "grow", "train"]


@pytest.mark.slow
def test_several_processes_share_one_group_from_stage_to_stage(file: Path, tmp_path: Path):
    in_processes(2, partial(run_as_rank, load_schedule(file), tmp_path / "out"))
    assert [record.steps for record in read_records(tmp_path / "out")][:4] == [2, 0, 3, 0]


@pytest.mark.slow
def test_a_changed_stage_is_not_taken_for_the_one_that_ran(file: Path, tmp_path: Path):
    run_schedule(load_schedule(file), tmp_path / "out")
    file.write_text(file.read_text().replace("steps: 2", "steps: 3"))
    with pytest.raises(PlanError, match=r"stage 1 is complete in .*out and reads differently there"):
        run_schedule(load_schedule(file), tmp_path / "out", resume=True)
    with pytest.raises(PlanError, match=r"exists and is not empty; .* or go on with\ngrowtool schedule .* --resume$"):
        run_schedule(load_schedule(file), tmp_path / "out")


BAD: list[tuple[str, str, str]] = [
    ("steps: 2", "step: 2", r":5:13 stages\[0\].train.step: unknown key; did you mean 'steps'"),
    (
        "checkpoint: model",
        "chekpoint: model",
        r":2:1 chekpoint: unknown key, expected one of checkpoint, train",
    ),
    ("steps: 2", "steps: [2]", r":5:20 stages\[0\].train.steps: found a list, expected an integer"),
    ("checkpoint: model", 'checkpoint: "mo\\0del"', r":2:13 checkpoint: found the character '\\x00', which no name"),
    ("- train: {steps: 2}", "- prune: 0.5", r":5:\d stages\[0\].prune: unknown key, expected one of train, grow"),
    ("operator: tile", "operator: tiles", r":6:\d\d stages\[1\].grow.width.operator: found 'tiles', .*mean 'tile'\?"),
    ("width: {operator", "widht: {operator", r":6:\d\d stages\[1\].grow.widht: unknown key, .*mean 'width'\?"),
    ("deeper.yaml", "deepest.yaml", r":8:11 stages\[3\].grow: .*deepest.yaml: no such file, expected a plan"),
    ("epochs: 1}", "epochs: 1, hflip: 2}", r":3:\d+ train.hflip: found 2, expected at most 1"),
    ("steps: 2", "kd_weight: 0.1", r":5:13 stages\[0\].train.kd_weight: given without --kd-teacher, so it would do"),
    ("data: data, ", "", r":5:5 stages\[0\].train: --data: missing, expected a folder of images"),
    ("  - grow: deeper.yaml", "  - grow: 3", r":8:11 stages\[3\].grow: found 3, expected a mapping"),
    (
        "  - grow: deeper.yaml",
        "  - {grow: deeper.yaml, train: {}}",
        r":8:5 stages\[3\]: expected a mapping with one of",
    ),
    ("epochs: 1}", "epochs: 1, resume: auto}", r"train.resume: the schedule decides this; drop it"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD, ids=[new[:14] for _, new, _ in BAD])
def test_a_bad_schedule_is_refused_with_its_place(file: Path, old: str, new: str, message: str):
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(PlanError) as caught:
        load_schedule(file)
    assert any(re.search(message, problem) for problem in caught.value.problems), caught.value


LATE: list[tuple[str, str, str]] = [
    ("macs: 1e9", "macs: 1e9, lr: -1", r":9:28 stages\[4\].train.lr: found -1, expected at least 0"),
    ("macs: 1e9", "macs: 5", r":9:5 stages\[4\].train: --set macs=5: found less than one update"),
    ("macs: 1e9", "steps: 2, data: elsewhere", r":9:5 stages\[4\].train: --data .*elsewhere: found nothing"),
    ("macs: 1e9", "steps: 2, data: others", r":9:5 stages\[4\].train: .*others/train: the class folders are not"),
    ("macs: 1e9", "steps: 2, train: head.*", r":9:5 stages\[4\].train: --train head.\*: matches no parameter"),
    ("macs: 1e9", "steps: 2, warmup_steps: 9", r":9:5 stages\[4\].train: --warmup-epochs, --warmup-steps: found a"),
    ("macs: 1e9", "steps: 2, kd_teacher: gone", r":9:5 stages\[4\].train: .*gone"),
    (
        "operator: tile}",
        "operator: tile}, data: {path: /nowhere}, recalibrate: true",
        r":6:5 stages\[1\].grow: data /nowhere: found nothing",
    ),
    (
        "operator: tile}",
        "operator: tile}, data: {path: data}, recalibrate: true",
        r":6:5 stages\[1\].grow: data: found 24",
    ),
    ("deeper.yaml", "{target: {model_args: {layers: [1, 1, 1, 1]}}, depth: {operator: zero_out}}", r":8:5 stages\[3\]"),
]


@pytest.mark.parametrize(("old", "new", "message"), LATE, ids=[new[:30] for _, new, _ in LATE])
def test_a_mistake_of_a_late_stage_is_found_with_its_place_before_the_first_one_trains(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
):
    """Against what the stages before it will have made: wider, and with names for the classes."""
    write_images(tmp_path / "others/train", per_class=8, classes=("blue", "green", "yellow"))
    write_images(tmp_path / "others/validation", per_class=1, classes=("blue", "green", "yellow"))
    monkeypatch.setattr(Train, "run", lambda *_: pytest.fail("a stage has run"))
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(PlanError, match=rf"schedule.yaml{message}"):
        run_schedule(load_schedule(file), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_of_a_plan_in_the_file_start_in_its_folder(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    two = "{target: {scale: {width: 2}}, width: {operator: two_source}, second: %s, data: {path: data}}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = file.read_text()
    for name, expected in (("model", str(tmp_path / "model")), ("mirror", "mirror"), ("/model", "/model")):
        file.write_text(text.replace("deeper.yaml", two % name))
        plan = load_schedule(Path("../schedule.yaml")).stages[3].plan.plan
        assert str(Path(plan.second).resolve() if "mirror" not in name else plan.second) == expected
        assert Path(plan.data.path).resolve() == tmp_path / "data"


@pytest.mark.slow
def test_a_schedule_may_begin_by_growing_a_lone_file(file: Path, tmp_path: Path):
    args = json.loads((tmp_path / "model/config.json").read_text())["model_args"]
    (tmp_path / "model/model.safetensors").rename(tmp_path / "lone.safetensors")
    plan = {"model": "resnet18", "model_args": args, "target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}
    train = {"data": "data", "batch_size": 8, "workers": 0, "device": "cpu", "steps": 1}

    def run(**changes: object) -> list[str]:
        stages = [{"grow": plan}, {"grow": plan | {"model_args": {}, **changes}}, {"train": train}]
        file.write_text(json.dumps({"checkpoint": "lone.safetensors", "stages": stages}))
        return [record.kind for record in run_schedule(load_schedule(file), tmp_path / "out")]

    with pytest.raises(PlanError, match=r"stages\[1\].grow: .*found 'resnet18', the plan says model: 'resnet34'"):
        run(model="resnet34")
    assert run() == ["grow", "grow", "train"]
    wider = open_checkpoint(tmp_path / "out/03-train/last").spec.model_args["channels"]
    assert list(wider) == [4 * channels for channels in args["channels"]]


def test_what_is_about_new_positions_is_for_the_stages_after_a_growth(file: Path, tmp_path: Path):
    """Said once for all; a stage with another optimizer has no state to begin anew, which is told."""
    text = file.read_text().replace("epochs: 1}", "epochs: 1, new_state: mean, new_warmup: 0.5}")
    file.write_text(text.replace("macs: MACS", "steps: 2").replace("macs: 1e9", "steps: 2, opt: sgd"))
    told = Notices()
    run_schedule(load_schedule(file), tmp_path / "out", progress=told)
    found = [yaml.safe_load((tmp_path / f"out/0{n}-train/config.yaml").read_text()) for n in (1, 3, 5)]
    assert [run["new_warmup"] for run in found] == [None, "0.5", "0.5"]
    assert [run["new_state"] for run in found] == ["carried", "mean", "carried"]
    assert [line for line in told.said if "new_state" in line] == [
        f"{file}:9:5 stages[4].train: new_state: no optimizer's state that fits comes from the stage before"
    ]


def test_adapters_leave_the_state_of_the_stage_before(file: Path, tmp_path: Path):
    stages = "stages: [train: {steps: 1}, train: {steps: 1, lora_rank: 2}]\n"
    file.write_text(file.read_text().partition("stages:")[0] + stages)
    assert [record.steps for record in run_schedule(load_schedule(file), tmp_path / "out")] == [1, 1]


def test_what_goes_wrong_within_a_stage_says_which(file: Path, tmp_path: Path):
    file.write_text(file.read_text().replace("{steps: 2}", "{steps: 5, opt: sgd, lr: 1e30}"))
    with pytest.raises(PlanError, match=r"schedule.yaml:5:5 stages\[0\].train: step \d: found"):
        run_schedule(load_schedule(file), tmp_path / "out")


def cli(*words: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def test_the_commands_run_a_schedule_and_draw_it(file: Path, tmp_path: Path):
    done = cli("schedule", file, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.exception
    stages = json.loads(done.stdout)["stages"]
    assert len(stages) == 5
    page, png = tmp_path / "page.html", tmp_path / "page.png"
    pytest.importorskip("matplotlib")
    runs, pictures = (tmp_path / "out", tmp_path / "out/01-train"), ("--png", png, "--svg", tmp_path / "page.svg")
    drawn = cli("report", *runs, "-o", page, *pictures, "--json")
    assert drawn.exit_code == 0, drawn.exception
    whole, first = json.loads(drawn.stdout)["curves"]
    assert (len(whole["grown"]), len(first["points"])) == (2, 2)
    assert whole["points"][-1]["macs"] == sum(stage["macs"] for stage in stages)
    assert (tmp_path / "page.svg").read_text().startswith("<svg")
    text = page.read_text()
    assert text.count("<svg") == 4 and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "out grown" in text
    assert re.search(r">out: \S+( k)? to \S+( k)? parameters, lr \S+<", text), "sizes of the first and the last stage"
    assert re.search(r">01-train: \S+( k)? parameters, lr \S+<", text)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_curves_add_up_over_the_stages(file: Path, tmp_path: Path):
    records = run_schedule(load_schedule(file), tmp_path / "out")
    curve = read_curve(tmp_path / "out")
    steps = [point.step for point in curve.points]
    assert steps == sorted(steps) and steps[-1] == sum(record.steps for record in records)
    assert [point.step for point in curve.grown] == [2, 5]
    charts = curve_charts([curve])
    assert [mark[0] for mark in charts[0].marks] == [2.0, 5.0]
    assert curve_table([curve]).rows[0][0] == "out"


def test_what_is_no_run_cannot_be_drawn(tmp_path: Path):
    with pytest.raises(PlanError, match=r"found neither metrics.jsonl nor schedule.json, expected the folder of a run"):
        read_curve(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(PlanError, match="no evaluation yet"):
        read_curve(tmp_path)
    (tmp_path / "schedule.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"schedule.json:1:2: not JSON"):
        read_curve(tmp_path)
