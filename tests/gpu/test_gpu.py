"""The script for GPUs runs as far as a CPU can, so that it does not rot; and what needs a GPU to be seen."""

import json
import re
import signal
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from growtool import grow
from growtool.finetune.parallel.device import in_use, peak_memory
from growtool.finetune.state.copies import Copies, Finite
from growtool.verify import compare, compare_each
from tests.bench import finetune as bench
from tests.gpu.__main__ import made, main
from tests.gpu.checks import Check
from tests.gpu.material import TINY, Material
from tests.gpu.report import Report, Skip
from tests.support.finetune import UNCLOSED_IMAGES
from tests.support.models import TINY_RESNET
from tests.support.processes import FORKS


def run_script(report: Path) -> None:
    raise SystemExit(main(["--device", "cpu", "--tiny", "--report", str(report)]))


@pytest.mark.slow
def test_the_script_for_gpus_runs_on_a_cpu(tmp_path: Path):
    child = FORKS.Process(target=run_script, args=(tmp_path,))
    child.start()
    child.join(600)
    found = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert [(check["name"], check["found"]) for check in found if check["status"] == "failed"] == []
    assert child.exitcode == 0
    assert {check["part"] for check in found} == {*"abcdefghijklm"}
    skipped = {check["part"] for check in found if check["status"] == "skipped"}
    assert skipped == {"d", "k"}, "only what a CPU cannot tell"
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "report.md").read_text().count("\n| ") == 2 + len(found)


def test_each_check_fails_alone_and_none_begins_when_the_time_is_over(tmp_path: Path):
    def refused() -> str:
        raise Skip("not here")

    def wrong() -> str:
        raise AssertionError("3, expected 2")

    checks = [Check("a", "wrong", wrong), Check("a", "skips", refused), Check("b", "fine", lambda: "2")]
    checks.append(Check("b", "breaks", lambda: str(1 / 0)))
    report = Report(tmp_path, torch.device("cpu"), tiny=True)
    for check in checks:
        report.add(made(check, Material(torch.device("cpu"), True, tmp_path, float("inf"), tmp_path)))
        assert len(json.loads((tmp_path / "report.json").read_text())["checks"]) == len(report.entries)
    assert [(entry.status, entry.found) for entry in report.entries] == [
        ("failed", "3, expected 2"), ("skipped", "not here"), ("passed", "2"),
        ("failed", "ZeroDivisionError: division by zero"),
    ]  # fmt: skip
    late = made(checks[2], Material(torch.device("cpu"), True, tmp_path, 0.0, tmp_path))
    assert (late.status, late.found) == ("skipped", "no time was left")


def test_without_a_cuda_device_it_says_what_can_be_run(capsys: pytest.CaptureFixture[str]):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit):
        main([])
    assert "no CUDA device is there; --device cpu --tiny runs the script" in capsys.readouterr().err


def test_a_check_that_runs_past_the_minutes_is_ended(tmp_path: Path):
    late = Check("a", "endless", lambda: time.sleep(60))  # type: ignore[arg-type]
    entry = made(late, Material(torch.device("cpu"), True, tmp_path, time.monotonic() + 0.1, tmp_path))
    assert (entry.status, entry.found) == ("failed", "TimeoutError: the minutes are over")
    assert entry.seconds < 30
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_check_that_takes_longer_than_what_is_left_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.gpu.__main__.tidy", lambda material: None)
    left = Material(torch.device("cuda"), False, tmp_path, time.monotonic() + 30.5, tmp_path)
    checks = [Check("g", "compiled", lambda: "2", 60), Check("k", "tests", lambda: "2", 20)]
    found = [(entry.status, entry.found) for entry in (made(check, left) for check in checks)]
    assert found == [("skipped", "takes 60 s, 30 s were left"), ("passed", "2")]


@pytest.mark.parametrize("what", ["grow", "verify", "a model"])
def test_proofs_run_on_the_device_that_is_named_in_full_float32(
    what: str, growtool: Any, resnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    device, used = torch.device("cuda", 0), []
    plan = {"width": {"operator": "tile"}, "target": {"model_args": {"channels": [8, 16, 16, 24]}}}

    def on_device(run: Any, *arguments: Any, device: torch.device, **named: Any) -> Any:
        used.append(device)
        return run(*arguments, **named)

    def in_turn(device: torch.device, *, tf32: bool) -> Any:
        used.append((device, tf32))
        return nullcontext()

    for place in ("growtool.workflows.verify", "growtool.finetune.parallel.device"):
        monkeypatch.setattr(f"{place}.resolve_device", {"cuda": device}.__getitem__)
    monkeypatch.setattr("growtool.growing.proof.compare_each", partial(on_device, compare_each))
    monkeypatch.setattr("growtool.workflows.verify.compare", partial(on_device, compare))
    for place in ("growtool.growing.proof", "growtool.workflows.verify"):
        monkeypatch.setattr(f"{place}.in_use", in_turn)
    if what == "a model":
        monkeypatch.setattr("growtool.growing.call.first_device", lambda model: device)
        monkeypatch.setattr(nn.Module, "to", lambda model, device: model)
        model = timm.create_model("local-dir:" + str(resnet_folder), pretrained=True)
        grow(model, plan | {"model_args": TINY_RESNET})
    elif what == "grow":
        assert growtool("grow", resnet_folder, "--width", "2", "-o", tmp_path / "out", "--device", "cuda")[0] == 0
    else:
        assert growtool("verify", resnet_folder, resnet_folder, "--device", "cuda")[0] == 0
    assert used == [(device, False), device]


def test_a_device_that_is_not_there_is_refused_before_growth(growtool: Any, resnet_folder: Path, tmp_path: Path):
    for words in (("grow", "--width", "2", "-o", tmp_path / "out"), ("verify", resnet_folder)):
        code, _, told = growtool(words[0], resnet_folder, *words[1:], "--device", "cuda:99")
        assert code == 1 and "--device: found 'cuda:99', expected one of the" in told
    assert not (tmp_path / "out").exists()


@UNCLOSED_IMAGES
def test_the_plain_loop_trains_as_a_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the switches of its device, and what is chosen where nothing is given."""
    used, clipped = [], []
    monkeypatch.setattr(bench, "in_use", lambda device, *, tf32: nullcontext(used.append((device, tf32))))
    monkeypatch.setattr(bench, "dispatch_clip_grad", lambda weights, limit, *, mode: clipped.append((limit, mode)))
    name, arguments = TINY["vit"]
    bench.compare(name, {**arguments, "num_classes": 10}, bench.Setting(), torch.device("cpu"), 1, 2)
    assert used == [(torch.device("cpu"), True)]
    assert set(clipped) == {(1.0, "norm")}, "the default for transformers"
    bench.compare_files(
        name, {**arguments, "num_classes": 10}, torch.device("cpu"), 2, 0, bench.write_images(tmp_path / "i", 32, 1)
    )
    assert used == 2 * [(torch.device("cpu"), True)]


def test_no_test_forks_what_has_computed():
    """CUDA forbids it, and torch after a backward pass."""
    text = {file.name: file.read_text() for file in Path(__file__).parents[1].rglob("test_*.py")}
    forking = [name for name, found in text.items() if re.search(r"os\.fork\(|get_context\(\"fork\"\)", found)]
    assert forking == ["test_rewind.py"], "there a child of the server does, which has computed nothing"
    assert FORKS.get_start_method() == "forkserver"


@pytest.mark.gpu
def test_copies_for_a_snapshot_are_pinned_and_right_once_the_device_was_waited_for():
    device, copies, finite = torch.device("cuda"), Copies(), Finite()
    weight = torch.randn(2048, 2048, device=device)
    taken = copies.copy("weight", weight)
    finite.look("weight", weight)
    assert list(finite.failed()) == []
    assert taken.is_pinned() and torch.equal(taken, weight.cpu())
    assert copies.copy("weight", weight).data_ptr() == taken.data_ptr()


@pytest.mark.gpu
def test_a_run_begins_with_a_peak_of_its_own():
    device = torch.device("cuda", 0)
    large = torch.empty(2**28, device=device)
    del large
    with in_use(device, tf32=True):
        assert torch.cuda.current_device() == 0
        assert peak_memory(device) < 2**28
        assert nn.Linear(2, 2).to(device)(torch.ones(1, 2, device=device)).isfinite().all()
