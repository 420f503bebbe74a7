"""A run that was killed and resumed is the run that was not: same losses, same weights, same files, to the bit."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from growtool.errors import CheckpointError, PlanError
from growtool.finetune.run import finetune
from growtool.finetune.state import folder as state
from growtool.finetune.state.records import Progress
from growtool.finetune.stopping import Stopped
from tests.support.finetune import PINNED, UNCLOSED_IMAGES, losses, read_metrics, run_config
from tests.support.processes import kill_this, killed

pytestmark = UNCLOSED_IMAGES
LINE = r"growtool finetune -o \S+ --resume auto"
EVERYTHING: dict[str, Any] = {
    "epochs": 3, "log_interval": 2, "recovery_interval": 1, "eval_interval": 2, "model_ema": True,
    "warmup_steps": 2, "scale": (0.3, 1.0), "aa": "rand-m9-mstd0.5", "reprob": 0.5, "mixup": 0.8,
    "cutmix": 1.0, "grad_accum_steps": 2, "clip_grad": 1.0,
}  # fmt: skip


class At(Progress):
    """Does something after a number of updates."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def advanced(self, step: int) -> None:
        if step == self.step:
            self.act()


def killed_at(step: int, **settings: Any) -> None:
    """Run in a process of its own that SIGKILL ends after `step` updates, wherever the background writer then is."""
    killed(partial(finetune, run_config(**settings), At(step, kill_this)))


def same_run(one: Path, two: Path) -> None:
    assert losses(one) == losses(two)
    for key in ("train_loss", "top1", "eval_loss", "best"):
        first, second = ([record[key] for record in read_metrics(run, "epoch")] for run in (one, two))
        assert first == second
    within = ([(r["step"], r["top1"], r["eval_loss"]) for r in read_metrics(run, "evaluation")] for run in (one, two))
    assert next(within) == next(within)
    for file in (
        "best/model.safetensors",
        "last/model.safetensors",
        "last/optimizer.safetensors",
        "last/ema.safetensors",
    ):
        if (one / file).exists():
            assert (one / file).read_bytes() == (two / file).read_bytes(), file
    rows = [[line.split(",")[:7] for line in (run / "summary.csv").read_text().splitlines()] for run in (one, two)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("opt", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_killed_at_random_updates_and_resumed_it_is_the_uninterrupted_run(
    checkpoint: Path, data: Path, tmp_path: Path, opt: str
):
    settings: dict[str, Any] = {"checkpoint": checkpoint, "data": data, "opt": opt, **EVERYTHING}
    finetune(run_config(output=tmp_path / "whole", **settings))
    steps = random.Random(opt)
    for step in sorted(steps.sample(range(1, 9), 3)):
        killed_at(step, output=tmp_path / "parts", resume="auto", **settings)
    result = finetune(run_config(output=tmp_path / "parts", resume="auto", **settings))
    assert result.steps == 9
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert not list((tmp_path / "parts").rglob(".*"))


def test_what_is_resumed_is_the_tail_of_the_pinned_losses(checkpoint: Path, data: Path, tmp_path: Path):
    killed_at(5, checkpoint=checkpoint, data=data, output=tmp_path / "run", recovery_interval=2)
    before = losses(tmp_path / "run")
    finetune(run_config(checkpoint, data, tmp_path / "run", recovery_interval=2, resume="auto"))
    after = losses(tmp_path / "run")
    assert before[:3] == after[:3]
    assert after[3:] == pytest.approx(PINNED[3:], rel=1e-4)


@pytest.mark.slow
def test_a_float16_scaler_goes_on_where_it_was(checkpoint: Path, data: Path, tmp_path: Path):
    """It halves its scale at the fourth update; one that began anew would do so again, and skip another."""
    settings: dict[str, Any] = {
        "checkpoint": checkpoint,
        "data": data,
        "amp": True,
        "amp_dtype": "float16",
        "epochs": 3,
    }
    finetune(run_config(output=tmp_path / "whole", **settings))
    killed_at(8, output=tmp_path / "parts", recovery_interval=1, **settings)
    finetune(run_config(output=tmp_path / "parts", resume="auto", recovery_interval=1, **settings))
    same_run(tmp_path / "whole", tmp_path / "parts")
    states = [json.loads((tmp_path / run / "last/state.json").read_text())["scaler"] for run in ("whole", "parts")]
    assert states[0] == states[1]
    assert states[0]["_growth_tracker"] > 0


def test_a_run_that_is_over_can_be_resumed_without_harm(checkpoint: Path, data: Path, tmp_path: Path):
    first = finetune(run_config(checkpoint, data, tmp_path / "run"))
    again = finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto"))
    assert (again.final, again.best, again.steps) == (first.final, first.best, first.steps)
    assert len(losses(tmp_path / "run")) == 6


def test_sigterm_saves_and_leaves(checkpoint: Path, data: Path, tmp_path: Path):
    settings = {"checkpoint": checkpoint, "data": data}
    finetune(run_config(output=tmp_path / "whole", **settings))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=rf"(?s)after update 4, saved as .*step-00000004; continue with\n{LINE}$"):
        finetune(run_config(output=tmp_path / "parts", **settings), At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert signal.getsignal(signal.SIGTERM) == before
    finetune(run_config(output=tmp_path / "parts", resume="auto", **settings))
    same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("step", [2, 4])
def test_the_evaluation_due_where_a_run_was_stopped_is_made_on_resuming(
    checkpoint: Path, data: Path, tmp_path: Path, step: int
):
    settings = {"checkpoint": checkpoint, "data": data, **EVERYTHING, "checkpoint_hist": 9}
    finetune(run_config(output=tmp_path / "whole", **settings))
    with pytest.raises(Stopped):
        stopping = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        finetune(run_config(output=tmp_path / "parts", **settings), stopping)
    for resume in ("auto", str(tmp_path / f"parts/checkpoints/step-{step:08d}")):
        finetune(run_config(output=tmp_path / "parts", resume=resume, **settings))
        same_run(tmp_path / "whole", tmp_path / "parts")


def _interruptible() -> None:
    """As in a terminal; what runs in the background may have been told to ignore Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        (signal.SIGINT, 130, 2),
        *(
            pytest.param(*other, marks=pytest.mark.slow)
            for other in ((signal.SIGTERM, 143, 0), (signal.SIGHUP, 129, 2), (signal.SIGUSR1, 138, 0))
        ),
    ],
)
def test_the_command_saves_and_leaves(number, code, workers, checkpoint: Path, data: Path, tmp_path: Path):
    """A terminal sends Ctrl-C to the whole group, the processes that read images among it."""
    output = tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "growtool", "finetune", str(checkpoint), "--data", str(data)]
    command += ["-o", str(output), "-b", "8", "--epochs", "5000", "--device", "cpu", "--log-interval", "1"]
    command += ["--workers", str(workers)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_interruptible
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not (output / "last").exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(process.pid, number) if workers else process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, said
    assert f"continue with\ngrowtool finetune -o {output} --resume auto\n" in said
    newest = sorted((output / "checkpoints").iterdir())[-1]
    assert json.loads((newest / "state.json").read_text())["course"]["step"] == int(newest.name.removeprefix("step-"))


def test_a_full_disk_costs_no_checkpoint(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full from the second checkpoint on; the first stays, loads, and is where the run goes on."""
    written = state.write_training_state
    calls = []

    def full(folder: Path, snapshot: Any) -> None:
        calls.append(folder)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        written(folder, snapshot)

    output = tmp_path / "run"
    monkeypatch.setattr(state, "write_training_state", full)
    with pytest.raises(OSError, match="No space left"):
        finetune(run_config(checkpoint, data, output))
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000003"]
    assert json.loads((output / "last/training.json").read_text())["step"] == 3
    monkeypatch.undo()
    finetune(run_config(checkpoint, data, tmp_path / "whole"))
    finetune(run_config(checkpoint, data, output, resume="auto"))
    same_run(tmp_path / "whole", output)


def test_only_the_latest_checkpoints_are_kept(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output, recovery_interval=1, checkpoint_hist=3))
    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000005", "step-00000006"]
    records = read_metrics(output, "checkpoint")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(record["stall_seconds"] > 0 and record["bytes"] > 0 for record in records)
    one, two = (output / place / "model.safetensors" for place in ("last", "checkpoints/step-00000006"))
    assert one.samefile(two)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output, recovery_interval=1))
    (output / "checkpoints/step-00000006/state.json").write_text("{")
    result = finetune(run_config(checkpoint, data, output, recovery_interval=1, resume="auto"))
    assert result.steps == 6
    assert len(losses(output)) == 6


def test_going_back_to_an_early_checkpoint_forgets_the_later_ones(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output, recovery_interval=1, checkpoint_hist=9))
    expected, early = losses(output), str(output / "checkpoints/step-00000002")
    with pytest.raises(Stopped):
        again = run_config(checkpoint, data, output, recovery_interval=1, checkpoint_hist=2, resume=early)
        finetune(again, At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-00000003", "step-00000004"]
    finetune(run_config(checkpoint, data, output, recovery_interval=1, resume="auto"))
    assert losses(output) == expected


def test_a_crash_between_two_names_is_mended(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    first = finetune(run_config(checkpoint, data, output))
    (output / "best").rename(output / ".best.x1_y.old")
    (output / ".last.zz.tmp").mkdir()
    again = finetune(run_config(checkpoint, data, output, resume="auto"))
    assert again.final == first.final
    assert not list(output.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, r"--resume: lr was 0.01 in .*, found 0.5; a run keeps its settings"),
        ({"seed": 1, "mixup": 0.1}, r"(?s)--resume: mixup was 0.0 .*--resume: seed was 42"),
        ({"resume": "elsewhere"}, r"--resume elsewhere: lies outside the run in .*; name that run"),
    ],
)
def test_another_run_is_not_resumed(
    checkpoint: Path, data: Path, tmp_path: Path, changes: dict[str, Any], message: str
):
    finetune(run_config(checkpoint, data, tmp_path / "run"))
    with pytest.raises((PlanError, CheckpointError), match=message):
        finetune(run_config(checkpoint, data, tmp_path / "run", **{"resume": "auto", **changes}))


def test_a_finished_run_without_checkpoints_is_not_begun_anew(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run/checkpoints")
    again = finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto"))
    assert again.steps == 6, "last/ holds the whole state"
    (tmp_path / "run/last/state.json").unlink()
    with pytest.raises(CheckpointError, match=r"run/checkpoints: found no checkpoint to resume from, expected one"):
        finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto"))
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_an_epoch_that_a_crash_kept_from_being_last_becomes_it(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output))
    whole = (output / "last/model.safetensors").read_bytes()
    shutil.rmtree(output / "last")
    finetune(run_config(checkpoint, data, output, resume="auto"))
    assert (output / "last/model.safetensors").read_bytes() == whole


def test_truncated_weights_give_way_to_the_checkpoint_before(checkpoint: Path, data: Path, tmp_path: Path):
    output = tmp_path / "run"
    finetune(run_config(checkpoint, data, output))
    whole = (output / "last/model.safetensors").read_bytes()
    newest = sorted((output / "checkpoints").iterdir())[-1] / "model.safetensors"
    newest.write_bytes(whole[:-4])
    finetune(run_config(checkpoint, data, output, resume="auto"))
    assert (output / "last/model.safetensors").read_bytes() == whole


def test_other_images_are_not_resumed(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run"))
    shutil.copy(data / "train/red/0.png", data / "train/red/another.png")
    with pytest.raises(PlanError, match=r"--resume: the number of training images: found 25, expected 24"):
        finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto"))


def test_what_replaces_a_run_is_not_part_of_its_settings(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run", force=True))
    assert not {"force", "resume"} & set(yaml.safe_load((tmp_path / "run/config.yaml").read_text()))


def test_other_weights_are_not_resumed(checkpoint: Path, data: Path, tmp_path: Path):
    finetune(run_config(checkpoint, data, tmp_path / "run"))
    shutil.copy(tmp_path / "run/last/model.safetensors", checkpoint / "model.safetensors")
    with pytest.raises(PlanError, match=r"--resume: the weights of CHECKPOINT: found .*, expected "):
        finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto"))


def test_resume_auto_of_nothing_begins(checkpoint: Path, data: Path, tmp_path: Path):
    assert finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto", epochs=1)).steps == 3


def _without_the_head(path: Path) -> None:
    state = load_file(path)
    save_file({name: tensor for name, tensor in state.items() if name != "fc.bias"}, path)


def _rate(value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        settings = yaml.safe_load(path.read_text())
        settings["resolved"]["defaults"] = {"weight_decay": value}
        path.write_text(yaml.safe_dump(settings))

    return change


DAMAGED = {
    "not UTF-8": ("config.yaml", lambda path: path.write_bytes(b"lr: \xff"), r"config.yaml: cannot be read \(Unicode"),
    "a choice without a value": ("config.yaml", _rate(3), r"config.yaml: cannot be read \(TypeError"),
    "a choice of another type": ("config.yaml", _rate({"value": []}), r"config.yaml: cannot be read \(ValidationError"),
    "weights that lack one": (
        "checkpoints/step-00000002/ema.safetensors",
        _without_the_head,
        r"ema.safetensors: fc.bias: found none, expected \[3\]; resume from another checkpoint",
    ),
    "no state": (
        "checkpoints/step-00000002/state.json",
        lambda path: path.write_text('{"format": 1, "course": {"step": 1}}'),
        r"state.json: cannot be read \(KeyError: 'epoch'\), expected the state of a run",
    ),
    "a state of another type": (
        "checkpoints/step-00000002/state.json",
        lambda path: path.write_text(path.read_text().replace('"batch": 2', '"batch": "2"')),
        r"(?s)state.json: cannot be read .*\nbatch\n  Input should be a valid integer .*expected the state of a run",
    ),
}


@pytest.mark.parametrize("name, change, message", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_of_the_run_is_named(name, change, message, checkpoint: Path, data: Path, tmp_path: Path):
    settings = {"model_ema": True, "steps": 3, "epochs": None}
    finetune(run_config(checkpoint, data, tmp_path / "run", recovery_interval=1, **settings))
    change(tmp_path / "run" / name)
    with pytest.raises(CheckpointError, match=message):
        finetune(
            run_config(
                checkpoint, data, tmp_path / "run", resume=str(tmp_path / "run/checkpoints/step-00000002"), **settings
            )
        )
