"""What a run's folder holds belongs to the run it goes on as: `best/` and `last/` never to a part that was given up."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from growtool.errors import PlanError
from growtool.finetune.job import Job
from growtool.finetune.run import finetune
from growtool.finetune.state.lock import locked
from growtool.finetune.state.records import Evaluation
from growtool.finetune.stopping import Stopped
from tests.support.finetune import UNCLOSED_IMAGES, Notices, losses, read_metrics, run_config
from tests.support.processes import FORKS

pytestmark = UNCLOSED_IMAGES
TOP1 = {0: 10.0, 3: 50.0, 6: 40.0, 9: 90.0, 12: 20.0}
EVERY: dict[str, Any] = {"epochs": 3, "recovery_interval": 1, "checkpoint_hist": 9}


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch is good, the second is not, the third is the best."""

    def evaluate(self: Job) -> Evaluation:
        return Evaluation(TOP1[self.trainer.step], 100.0, 1.0, 12)

    monkeypatch.setattr(Job, "evaluate", evaluate)


class StopAt(Notices):
    """Asks the run to stop after an update."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def advanced(self, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_at(step: int, *arguments: Any, **settings: Any) -> list[str]:
    """Run until an update; what was said."""
    watcher = StopAt(step)
    with pytest.raises(Stopped):
        finetune(run_config(*arguments, **settings), watcher)
    return watcher.said


def step_of(folder: Path) -> int:
    return int(json.loads((folder / "training.json").read_text())["step"])


@pytest.mark.parametrize("changes", [{}, {"model_ema": True}, {"lora_rank": 2}], ids=["plain", "average", "adapters"])
def test_the_best_of_a_part_that_was_given_up_gives_way_to_the_best_of_what_is_kept(
    checkpoint: Path, data: Path, tmp_path: Path, changes: dict[str, Any]
):
    settings, run = EVERY | changes, tmp_path / "run"
    stopped_at(4, checkpoint, data, tmp_path / "early", **settings)
    finetune(run_config(checkpoint, data, run, **settings))
    assert (step_of(run / "best"), step_of(run / "last")) == (9, 9)
    said = stopped_at(5, checkpoint, data, run, **settings, resume=str(run / "checkpoints/step-00000004"))
    assert said[0].startswith("the run goes on after update 4; what came later is given up: checkpoints/step-00000005,")
    assert said[0].endswith("checkpoints/step-00000009, best, last")
    for name in ("best", "last"):
        assert step_of(run / name) == 3
        one, two = (folder / name / "model.safetensors" for folder in (tmp_path / "early", run))
        assert one.read_bytes() == two.read_bytes()
    weights = json.loads((run / "best/training.json").read_text())["weights"]
    assert weights == ("ema" if "model_ema" in changes else "model")
    assert finetune(run_config(checkpoint, data, run, **settings, resume="auto")).best.step == 9


def test_without_the_weights_of_the_best_epoch_there_is_no_best_until_the_next(
    checkpoint: Path, data: Path, tmp_path: Path
):
    run, settings = tmp_path / "run", EVERY | {"checkpoint_hist": 2, "epochs": 4}
    finetune(run_config(checkpoint, data, run, **settings | {"checkpoint_hist": 5}))
    for step in range(9):
        shutil.rmtree(run / f"checkpoints/step-{step:08d}", ignore_errors=step != 8)
    early = str(run / "checkpoints/step-00000010")
    said = stopped_at(11, checkpoint, data, run, **settings, resume=early)
    assert "checkpoints/step-00000011, checkpoints/step-00000012, last" in said[0]
    assert step_of(run / "best") == step_of(run / "last") == 9
    shutil.rmtree(run / "best")
    shutil.rmtree(run / "last")
    shutil.rmtree(run / "checkpoints/step-00000010")
    notices = Notices()
    result = finetune(run_config(checkpoint, data, run, **settings, resume="auto"), notices)
    assert notices.said == [
        "the weights of epoch 3, the best so far, are not kept; best/ is chosen from the epochs to come"
    ]
    assert (result.best.step, step_of(run / "best")) == (12, 12)


def test_a_crash_before_best_was_written_is_mended(checkpoint: Path, data: Path, tmp_path: Path):
    run = tmp_path / "run"
    stopped_at(4, checkpoint, data, run, **EVERY)
    shutil.copytree(run / "best", tmp_path / "older")
    finetune(run_config(checkpoint, data, run, **EVERY, resume="auto"))
    whole = (run / "best/model.safetensors").read_bytes()
    for leave in (lambda: None, lambda: shutil.copytree(tmp_path / "older", run / "best")):
        shutil.rmtree(run / "best")
        leave()
        finetune(run_config(checkpoint, data, run, **EVERY, resume="auto"))
        assert (run / "best/model.safetensors").read_bytes() == whole


def test_the_latest_state_is_the_one_to_go_on_from_wherever_it_lies(checkpoint: Path, data: Path, tmp_path: Path):
    run = tmp_path / "run"
    finetune(run_config(checkpoint, data, run, **EVERY))
    expected = losses(run)
    shutil.rmtree(run / "checkpoints/step-00000009")
    notices = Notices()
    finetune(run_config(checkpoint, data, run, **EVERY, resume="auto"), notices)
    assert (losses(run), step_of(run / "last"), notices.said) == (expected, 9, [])


def hold(folder: Path, act: Callable[[], object], done: Any) -> None:
    with locked(folder):
        act()
        done.set()
        signal.pause()


@contextmanager
def holding(folder: Path, act: Callable[[], object] = os.getpid) -> Iterator[int]:
    """The id of a process that has locked `folder` and done something; it is killed in the end."""
    done = FORKS.Event()
    child = FORKS.Process(target=hold, args=(folder, act, done))
    child.start()
    try:
        assert done.wait(60)
        assert child.pid is not None
        yield child.pid
    finally:
        child.kill()
        child.join()


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_went(
    checkpoint: Path, data: Path, tmp_path: Path
):
    run = tmp_path / "run"
    with holding(run) as child:
        for resume in (None, "auto"):
            writing = rf"--output .*run: process {child} on .* is writing there, expected to be"
            with pytest.raises(PlanError, match=writing):
                finetune(run_config(checkpoint, data, run, resume=resume))
    assert (run / ".lock").exists()
    finetune(run_config(checkpoint, data, run))
    assert not (run / ".lock").exists()
    assert read_metrics(run, "epoch")


def fork_a_worker(pid: Path) -> None:
    worker = os.fork()
    if worker == 0:
        signal.pause()
    pid.write_text(str(worker))


def test_what_a_killed_process_forked_does_not_hold_its_lock(tmp_path: Path):
    """Workers that read images live for some seconds longer than the run they belong to."""
    pid = tmp_path / "pid"
    with holding(tmp_path / "run", partial(fork_a_worker, pid)):
        pass
    try:
        with locked(tmp_path / "run") as held:
            assert held
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_lock_leaves_nothing_behind(tmp_path: Path):
    with locked(tmp_path / "new/run"):
        assert [path.name for path in (tmp_path / "new/run").iterdir()] == [".lock"]
    assert not (tmp_path / "new").exists()
