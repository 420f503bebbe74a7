"""One course of the rate over all stages of a schedule: it goes through growth, and growth lies where it is level."""

import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest import approx

from growtool.checkpoint import open_checkpoint
from growtool.errors import PlanError
from growtool.workflows.schedule.file import load_schedule
from growtool.workflows.schedule.run import run_schedule
from growtool.workflows.schedule.stages import Train
from tests.support.finetune import UNCLOSED_IMAGES, Signal, read_metrics, write_checkpoint, write_data
from tests.support.processes import killed

pytestmark = UNCLOSED_IMAGES
WIDER = {"grow": {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}}
DOCS = Path(__file__).parents[2] / "docs"
COMMON = {"data": "data", "lr": 1e-2, "batch_size": 8, "workers": 0, "device": "cpu", "log_interval": 1}
WSD = {"warmup": 0.25, "decay": "4steps", "lr_decay_fn": "linear", "min_lr": 1e-3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model")
    write_data(tmp_path / "data")
    return tmp_path


def write(folder: Path, rate: Any, *stages: dict[str, Any], **common: Any) -> Path:
    content = {"checkpoint": "model", "train": COMMON | common, "rate": rate, "stages": list(stages)}
    path = folder / "schedule.yaml"
    path.write_text(json.dumps(content))
    return path


def train(**options: Any) -> dict[str, Any]:
    return {"train": options}


def rates(output: Path) -> list[float]:
    return [record["lr"] for stage in sorted(output.glob("*-train")) for record in read_metrics(stage, "step")]


def test_the_rate_of_every_update_is_that_of_one_course(folder: Path):
    """Two epochs, growth, six smaller updates: three of warm-up, five level ones over the growth, four of decay."""
    run_schedule(
        load_schedule(write(folder, WSD, train(epochs=2), WIDER, train(steps=6, batch_size=4))), folder / "out"
    )
    level = 1e-2
    fall = [level - 9e-3 * part / 4 for part in range(4)]
    assert rates(folder / "out") == approx([0, level / 3, 2 * level / 3, *[level] * 5, *fall], rel=1e-9)


@pytest.mark.parametrize("sched", ["constant", "cosine"])
def test_another_course_may_grow_anywhere(folder: Path, sched: str):
    rate = {"sched": sched, "warmup": "1epoch"}
    run_schedule(load_schedule(write(folder, rate, train(steps=2), WIDER, train(macs=1e9))), folder / "out")
    found = rates(folder / "out")
    run_schedule(load_schedule(write(folder, rate, train(steps=len(found)))), folder / "alone")
    assert len(found) > 5 and found == rates(folder / "alone")
    assert found[:4] == approx([0, 1e-2 / 3, 2e-2 / 3, found[3]]) and found[3] > 2e-2 / 3


def test_a_teacher_that_is_yet_to_grow_counts_with_the_size_that_it_will_have(folder: Path):
    """Of a budget in MACs, what the latest growth starts from takes its part in each update."""
    twice = {"grow": {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}}
    taught = train(macs=4e9, kd_teacher="previous")
    stages = (train(steps=2), WIDER, train(steps=1), twice, taught)
    run_schedule(load_schedule(write(folder, {"sched": "constant", "warmup": 0.1}, *stages)), folder / "out")
    last = yaml.safe_load((folder / "out/05-train/config.yaml").read_text())
    assert last["sched_steps"] == 3 + last["resolved"]["steps"]


@pytest.mark.slow
def test_killed_within_the_decay_it_goes_on_the_same(folder: Path):
    """In the third update of the first stage and the fifth of the second, the optimizer's state carried on."""
    loaded = load_schedule(write(folder, WSD, train(epochs=2), WIDER, train(epochs=2), recovery_interval=2))
    run_schedule(loaded, folder / "whole")
    for updates in (3, 8):
        stopping = Signal(updates, signal.SIGKILL)
        killed(partial(run_schedule, loaded, folder / "parts", resume=True, progress=stopping))
    run_schedule(loaded, folder / "parts", resume=True)
    for file in ("model.safetensors", "optimizer.safetensors"):
        whole, parts = (folder / run / "03-train/last" / file for run in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()
    assert rates(folder / "parts") == rates(folder / "whole")


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ({"decay": 0.75}, r"grows after update 6 of 12, in the decay of .* from update 1 to 3; .* shorten decay in"),
        ({"warmup": "7steps", "decay": "2steps"}, r"grows after update 6 of 12, in the warm-up of .* update 7 to 10; "),
        ({"decay": "3epochs", "warmup": "1epoch"}, r"rate: found a warm-up of 3 and a decay of 9 in 12 updates of all"),
        ({"decay": 0.01}, r"rate: found a warm-up of 1 and a decay of 0 in 12 updates"),
    ],
)
def test_growth_lies_in_the_stable_part(folder: Path, monkeypatch: pytest.MonkeyPatch, rate: Any, message: str):
    monkeypatch.setattr(Train, "run", lambda *_: pytest.fail("a stage has run"))
    with pytest.raises(PlanError, match=rf"schedule.yaml:?.*{message}"):
        run_schedule(load_schedule(write(folder, rate, train(epochs=2), WIDER, train(epochs=2))), folder / "out")


def test_growth_before_and_after_all_training_is_in_no_part_of_the_rate(folder: Path):
    loaded = load_schedule(write(folder, {"decay": 0.5}, WIDER, train(steps=4), WIDER))
    assert [record.kind for record in run_schedule(loaded, folder / "out")] == ["grow", "train", "grow"]


def test_what_has_trained_by_another_course_is_not_gone_on_with(folder: Path):
    stages = train(steps=4), WIDER
    run_schedule(load_schedule(write(folder, WSD | {"warmup": 0}, *stages, train(steps=5))), folder / "out")
    changed = load_schedule(write(folder, WSD | {"warmup": 0}, *stages, train(steps=5), train(steps=1)))
    message = (
        r"stages\[0\].train: trained with sched_steps 9 in .*01-train, and by `rate` and the budgets .* it is 10 now"
    )
    with pytest.raises(PlanError, match=message):
        run_schedule(changed, folder / "out", resume=True)


def test_a_rate_needs_a_stage_that_trains(folder: Path):
    with pytest.raises(
        PlanError, match=r"schedule.yaml:\d+:\d+ rate: found no stage that trains, expected one at least"
    ):
        load_schedule(write(folder, {}, WIDER))


@pytest.mark.parametrize(
    ("rate", "stage", "common", "message"),
    [
        ({}, {"sched": "cosine"}, {}, r"stages\[0\].train.sched: the schedule's `rate` decides this for all stages"),
        ({}, {}, {"warmup_epochs": 1}, r"train.warmup_epochs: the schedule's `rate` decides this"),
        ({}, {"lr": 1e-3}, {}, r"stages\[0\].train.lr: given for one stage, but `rate` is of all"),
        ({}, {}, {"lr": None}, r"rate: found no lr in `train` above `stages`, expected one for all of them"),
        ({"sched": "linear"}, {}, {}, r"rate.sched: found 'linear', expected one of wsd, cosine, constant"),
        ({"sched": "cosine", "decay": 0.1}, {}, {}, r"rate: decay and lr_decay_fn are without effect on cosine"),
        ({"sched": "constant", "min_lr": 0.1}, {}, {}, r"rate: min_lr is without effect on constant"),
        ({"warmup": 0, "warmup_lr": 0.1}, {}, {}, r"rate: warmup_lr is without effect as there is no warm-up"),
        (
            {"warmup": 5},
            {},
            {},
            r"rate.warmup: found 5, expected a share of the whole below 1, or a number of epochs or",
        ),
        ({"decay": "2e12macs"}, {}, {}, r"rate.decay: found '2e12macs', expected a share"),
    ],
)
def test_a_rate_that_cannot_be_meant_is_refused_with_its_place(
    folder: Path, rate: Any, stage: Any, common: Any, message: str
):
    with pytest.raises(PlanError) as caught:
        load_schedule(write(folder, rate, train(**stage), **common))
    assert any(re.search(rf"schedule.yaml:\d+:\d+ {message}", found) for found in caught.value.problems), caught.value


@pytest.mark.parametrize("way", ["both", *(pytest.param(way, marks=pytest.mark.slow) for way in ("wide", "deep"))])
def test_the_recipes_that_grow_once_and_late_run(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With few images: from the lines of the page on, exactly larger while the rate is level, then it falls."""
    page = (DOCS / "finetune.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(import timm\n.*?)```", page, re.DOTALL)[0], {})
    write_data(tmp_path / "cifar", train=4, validation=1, classes=tuple("abcdefghij"))
    small = "batch_size: 8, workers: 0, device: cpu, log_interval: 1"
    recipe = (DOCS / f"experiments/once-{way}.yaml").read_text().replace("batch_size: 128", small)
    recipe = recipe.replace("epochs: 4}", "epochs: 1}").replace("epochs: 16}", "epochs: 4}")
    (tmp_path / "once.yaml").write_text(recipe)
    run_schedule(load_schedule(tmp_path / "once.yaml"), tmp_path / "out")
    report = json.loads((tmp_path / "out/02-grow/growth.json").read_text())
    assert report["promise"]["kind"] == "exact" and report["optimizer"]["carried"] > 0
    large = open_checkpoint(tmp_path / "out/03-train/last").spec.model_args
    assert (large["channels"], large.get("layers", [2] * 4)) == ([48, 96, 192, 384], [2] * 4)
    found = rates(tmp_path / "out")
    assert found == approx([0.1] * (len(found) - 4) + found[-4:]) and found[-4:] == sorted(found[-4:], reverse=True)
    assert found[-1] == approx(0.1 / 4)
