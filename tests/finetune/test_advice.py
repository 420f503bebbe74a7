"""What a run that cannot go on tells its user to do can be done: the commands in its messages are given, and work."""

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import PlanError
from growtool.finetune import assemble, evaluate, job
from growtool.finetune.parallel.device import is_out_of_memory
from growtool.finetune.run import finetune
from growtool.finetune.state import folder as state
from growtool.finetune.update.loop import Trainer
from tests.support.finetune import UNCLOSED_IMAGES, evaluated, read_metrics, run_config

pytestmark = UNCLOSED_IMAGES
# One update an epoch; the warm-up starts at a rate of 0, so the first is harmless and the second is not.
DIVERGING: dict[str, Any] = {"epochs": 5, "batch_size": 24, "opt": "sgd", "lr": 1e30, "warmup_steps": 2}


def commands_in(message: str) -> list[list[str]]:
    """Each has a line to itself."""
    return [shlex.split(line)[1:] for line in message.splitlines() if line.startswith("growtool ")]


def message_of(act: Callable[[], object]) -> str:
    with pytest.raises(PlanError) as caught:
        act()
    return str(caught.value)


def exhaust(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_diverging_run_says_where_and_keeps_the_last_good_epoch(checkpoint: Path, data: Path, tmp_path: Path):
    said = message_of(lambda: finetune(run_config(checkpoint, data, tmp_path / "run", **DIVERGING)))
    assert re.match(
        r"step 2: found .* loss of (nan|inf), expected a finite number; .*last holds epoch 1, the last good one; the "
        r"rate \(--lr, now 1e\+30\) is too high",
        said,
    )
    for folder in ("best", "last"):
        assert json.loads((tmp_path / "run" / folder / "training.json").read_text())["step"] == 1
    assert evaluated(tmp_path / "run/last", data).count == 12


@pytest.mark.parametrize("epochs", [1, 0], ids=["from-an-epoch", "from-the-start"])
def test_the_run_that_diverged_goes_on_by_the_command_it_names(
    checkpoint: Path, data: Path, tmp_path: Path, epochs: int
):
    settings = DIVERGING if epochs else DIVERGING | {"warmup_steps": None}
    said = message_of(lambda: finetune(run_config(checkpoint, data, tmp_path / "run", **settings)))
    words = commands_in(said)[0]
    assert (str(tmp_path / "run/last") in words) == bool(epochs)
    assert words[words.index("--lr") + 1] == "1e+29"
    words[-1] = "0.001"
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["output"] == str(tmp_path / "run-2")


def test_out_of_memory_within_the_run_goes_on_in_smaller_parts(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    update = Trainer.update

    def exhausted(self: Trainer, images: torch.Tensor, targets: torch.Tensor) -> Any:
        return exhaust() if self.step == 4 else update(self, images, targets)

    written = state.write_training_state

    def slowly(*arguments: Any) -> None:
        time.sleep(0.5)
        written(*arguments)

    monkeypatch.setattr(Trainer, "update", exhausted)
    monkeypatch.setattr(state, "write_training_state", slowly)
    said = message_of(lambda: finetune(run_config(checkpoint, data, tmp_path / "run")))
    monkeypatch.undo()
    assert re.match(
        r"memory of cpu has run out at step 4 with --batch-size 8 \(CUDA out of memory.*\); go on with the same "
        r"images per update, in smaller parts:\ngrowtool finetune -o \S+run --resume auto --grad-accum-steps 2\nor "
        r"begin a new run there, with --amp or --opt swan \(no optimizer state\) added to\n"
        r"growtool finetune \S+run/last -c \S+run/config.yaml -o \S+run-2$",
        said,
    )
    going_on, anew = commands_in(said)
    done = CliRunner().invoke(app, going_on)
    assert done.exit_code == 0, done.exception
    assert "grad_accum_steps was 1 when the run began and is 2 now: it goes on, but no longer to the bit" in done.stderr
    assert [record["step"] for record in read_metrics(tmp_path / "run", "step")] == [1, 2, 3, 4, 5, 6]
    assert CliRunner().invoke(app, [*anew, "--opt", "swan"]).exit_code == 0


@pytest.mark.parametrize(
    ("module", "name", "changes"),
    [
        (assemble, "recalibrate", {"recalibrate": 8}),
        (assemble, "add_adapters", {"lora_rank": 1}),
        (assemble, "place", {}),
        (job, "evaluate", {}),
    ],
)
def test_out_of_memory_anywhere_says_the_same(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    changes: dict[str, Any],
):
    monkeypatch.setattr(module, name, exhaust)
    said = message_of(lambda: finetune(run_config(checkpoint, data, tmp_path / "run", **changes)))
    assert "memory of cpu has run out" in said and "--grad-accum-steps 2" in said
    monkeypatch.undo()
    finetune(run_config(checkpoint, data, tmp_path / "run", resume="auto", grad_accum_steps=2, **changes))


def test_an_update_that_cannot_be_parted_further_is_to_be_smaller(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(assemble, "place", exhaust)
    settings: dict[str, Any] = {"batch_size": 2, "grad_accum_steps": 2, "amp": True, "train": "fc.*"}
    said = message_of(lambda: finetune(run_config(checkpoint, data, tmp_path / "run", **settings)))
    assert said.endswith("; give the same command again with --batch-size 1 or --opt swan (no optimizer state)")


@pytest.mark.parametrize("parts", [1, 4])
def test_nothing_passes_more_images_through_the_model_than_a_part_has(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
):
    """Recalibration, the start of adapters, updates and evaluation: else smaller parts would not save memory."""
    seen = []
    loaded = assemble.place

    def watched(model: torch.nn.Module, *arguments: Any, **settings: Any) -> torch.nn.Module:
        model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return loaded(model, *arguments, **settings)

    for module in (assemble, evaluate):
        monkeypatch.setattr(module, "place", watched)
    settings: dict[str, Any] = {"grad_accum_steps": parts, "recalibrate": 8, "lora_rank": 1, "epochs": 1}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    assert max(seen) == 8 // parts


def test_what_torch_says_of_memory_is_understood():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
