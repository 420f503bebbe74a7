"""The copy of the plan beside the output says what was carried out: growing by it gives the same bytes."""

import json
from pathlib import Path

import pytest
import yaml

from growtool.checkpoint import open_checkpoint
from growtool.plan import load_plan
from growtool.workflows.compare.arms import grown_arms
from growtool.workflows.schedule.file import load_schedule
from growtool.workflows.schedule.run import run_schedule
from tests.support.finetune import write_checkpoint, write_data
from tests.support.models import TINY, plan_of, write_folder

PLAN = "# mine\ntarget: {model_args: {channels: [8, 16, 16, 24]}}\nwidth: tile\n"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        ["--width", "2"],
        ["--width", "3/1", "--operator", "fpi", "--seed", "3"],
        ["--width", "2", "--depth", "1,3,1,1", "--operator", "net2net", "--operator", "stack"],
        ["--depth", "2", "--recalibrate", "--data", "data"],
        ["plan.yaml"],
        ["plan.yaml", "--seed", "3"],
        ["plan.yaml", "--seed", "3", "--recalibrate", "--data", "data"],
    ],
    ids=" ".join,
)
def test_growing_by_the_copy_gives_the_same_bytes(growtool, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "source", layers=[1, 2, 1, 1])
    write_data(tmp_path / "data", train=86)
    (tmp_path / "plan.yaml").write_text(PLAN)
    code, _, err = growtool("grow", "source", *options, "-o", "first")
    assert code == 0, err
    code, _, err = growtool("grow", "source", "first/plan.yaml", "-o", "second")
    assert code == 0, err
    assert files(tmp_path / "first") == files(tmp_path / "second")
    copy = (tmp_path / "first" / "plan.yaml").read_text()
    assert copy.strip() in (tmp_path / "first" / "README.md").read_text()
    report = json.loads((tmp_path / "first" / "growth.json").read_text())
    assert report["plan"]["resolved"] == load_plan(tmp_path / "first" / "plan.yaml").plan.model_dump(mode="json")


def test_a_plan_that_says_all_is_copied_as_it_is(growtool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "source")
    (tmp_path / "plan.yaml").write_text(PLAN)
    assert growtool("grow", "source", "plan.yaml", "-o", "out", "--seed", "0")[0] == 0
    assert (tmp_path / "out" / "plan.yaml").read_text() == PLAN


def test_a_short_plan_stays_short(growtool, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    assert growtool("grow", source, "--width", "2", "--depth", "3/2", "--seed", "1", "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "plan.yaml").read_text() == (
        "# depth: zero_out is chosen, as the plan names none: exact here\n"
        "# width: mixture is chosen, as the plan names none: exact here\n"
        "scale: {width: 2, depth: 3/2}\nseed: 1\nwidth: mixture\ndepth: zero_out\n"
    )


def test_the_copy_of_a_stage_finds_its_images_from_elsewhere(tmp_path, monkeypatch):
    """Paths in a schedule start in its folder; the copy stands in another."""
    folder = tmp_path / "below"
    write_checkpoint(folder / "model")
    write_data(folder / "data")
    stage = {"scale": 2, "recalibrate": True, "data": {"path": "data", "batches": 1, "batch_size": 4}}
    (folder / "schedule.yaml").write_text(yaml.safe_dump({"checkpoint": "model", "stages": [{"grow": stage}]}))
    monkeypatch.chdir(tmp_path)
    run_schedule(load_schedule(Path("below/schedule.yaml")), tmp_path / "out")
    copied = load_plan(tmp_path / "out" / "01-grow" / "plan.yaml").plan
    assert copied.data is not None and copied.data.path == "below/data"
    assert copied.width is not None and copied.width.operator == "mixture"


def test_an_arm_of_a_comparison_says_its_own_seed(tmp_path):
    source = open_checkpoint(write_folder(TINY["vit"], tmp_path / "source"))
    (arm,) = grown_arms(source, [plan_of(tmp_path, {"scale": 2, "seed": 5})])
    arm.write_start(tmp_path / "out", 2)
    copied = load_plan(tmp_path / "out" / "plan.yaml").plan
    assert (copied.seed, copied.width and copied.width.operator) == (7, "mixture")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "growtool grow: found nothing to grow to, expected a plan, --width or --depth; such as"),
        (["--operator", "tile"], "--operator tile: found nothing to grow to, expected a plan, --width or --depth"),
        (
            ["plan.yaml", "--width", "2", "--operator", "tile"],
            "--width 2, --operator tile: found beside the plan plan.yaml, expected one of them",
        ),
        (["--width", "0.5"], "--width: found 0.5, expected at least 1"),
        (["--width", "big"], "--width: found 'big', expected a number of at least 1, such as 2 or 4/3"),
        (["--depth", "2,x"], "--depth: found [2, 'x'], expected a number of at least 1"),
        (["--width", "2", "--operator", "tyle"], "--operator tyle: no such operator, expected one of tile, "),
        (
            ["--width", "2", "--operator", "tile", "--operator", "fpi"],
            "--operator fpi: found tile for the width already, expected one; drop one",
        ),
        (["--depth", "2", "--operator", "map"], "--operator map: missing, expected the source block of every target"),
        (["--width", "2", "--operator", "gradmax"], "--operator gradmax: gradmax needs images, expected `data: {path:"),
        (["--width", "1.01"], "--width 1.01: channels 4 x 1.01 = 4.04, "),
    ],
)
def test_what_is_wrong_with_the_options_is_told(growtool, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "source")
    (tmp_path / "plan.yaml").write_text(PLAN)
    code, out, err = growtool("grow", "source", *options, "--dry-run")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {message}"), err


def test_an_operator_that_sees_images_gets_them_by_an_option(growtool, tmp_path):
    source, data = write_checkpoint(tmp_path / "source"), write_data(tmp_path / "data")
    out = tmp_path / "out"
    code, _, err = growtool(
        "grow", source, "--width", "2", "--operator", "ligo", "--data", data, "-o", out, "--dry-run"
    )
    assert code == 0, err
