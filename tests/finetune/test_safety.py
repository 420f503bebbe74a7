"""What goes wrong overnight: numbers that are not finite, images that cannot be read, memory that runs out."""

import csv
import json
import math
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import CheckpointError, PlanError
from growtool.finetune.run import finetune
from growtool.finetune.state.journal import Journal, read_events
from growtool.finetune.update.loop import Trainer
from tests.support.finetune import (
    UNCLOSED_IMAGES,
    Notices,
    evaluated,
    losses,
    read_metrics,
    run_config,
    write_checkpoint,
)

pytestmark = UNCLOSED_IMAGES


def spoil_update(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """The images of these updates become infinite."""
    update = Trainer.update

    def spoilt(self: Trainer, images: torch.Tensor, targets: torch.Tensor) -> Any:
        return update(self, images * math.inf if self.step + 1 in steps else images, targets)

    monkeypatch.setattr(Trainer, "update", spoilt)


def test_an_update_that_is_not_finite_is_skipped_and_leaves_no_trace(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_update(monkeypatch, 2)
    result = finetune(run_config(checkpoint, data, tmp_path / "run", nonfinite="skip", epochs=1, checkpoint_hist=9))
    assert result.skipped == 1
    assert losses(tmp_path / "run")[1] is None
    assert [record["skipped"] for record in read_metrics(tmp_path / "run", "step")] == [0, 1, 1]
    for tensor in load_file(tmp_path / "run/last/model.safetensors").values():
        assert bool(torch.isfinite(tensor).all())


def test_a_skipped_update_changes_nothing_at_all(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_update(monkeypatch, 2)
    settings: dict[str, Any] = {"nonfinite": "skip", "epochs": 1, "recovery_interval": 1, "checkpoint_hist": 9}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    first, second = (load_file(tmp_path / f"run/checkpoints/step-0000000{n}/model.safetensors") for n in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first if "num_batches" not in name)


def test_too_many_skipped_updates_end_the_run(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_update(monkeypatch, *range(4, 100))
    with pytest.raises(PlanError, match=r"21 updates in a row were not finite.*last holds epoch"):
        finetune(run_config(checkpoint, data, tmp_path / "run", nonfinite="skip", epochs=20))
    assert json.loads((tmp_path / "run/last/training.json").read_text())["epoch"] >= 1


def test_the_default_is_to_stop_at_a_loss_that_is_not_finite(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spoil_update(monkeypatch, 5)
    with pytest.raises(PlanError, match=r"step 5: found a training loss of nan.*holds epoch 1") as caught:
        finetune(run_config(checkpoint, data, tmp_path / "run"))
    skipping = shlex.split(str(caught.value).splitlines()[-1])
    assert skipping == ["growtool", "finetune", "-o", str(tmp_path / "run"), "--resume", "auto", "--nonfinite", "skip"]
    assert evaluated(tmp_path / "run/last", data).count == 12
    done = CliRunner().invoke(app, [*skipping[1:], "--json"])
    result = json.loads(done.stdout)
    assert (result["steps"], result["skipped"]) == (6, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_and_counted_and_not_fatal(
    checkpoint: Path, data: Path, tmp_path: Path, workers: int
):
    whole = data / "train/green/3.png"
    whole.write_bytes(whole.read_bytes()[:200])
    (data / "train/red/5.png").write_text("no image")
    (data / "validation/red/1.png").write_text("no image")
    notices = Notices()
    result = finetune(run_config(checkpoint, data, tmp_path / "run", workers=workers), notices)
    names = {line.split(": ")[0].removeprefix(str(data) + "/") for line in result.unreadable}
    assert names == {"train/green/3.png", "train/red/5.png", "validation/red/1.png"}
    assert result.final.count == 11
    assert len(notices.said) >= 1 and "other images take their place" in notices.said[0]
    told = [name for record in read_metrics(tmp_path / "run", "unreadable") for name in record["images"]]
    assert sorted(told) == sorted(result.unreadable)


def test_nothing_but_unreadable_images_is_an_error(checkpoint: Path, data: Path, tmp_path: Path):
    for path in sorted((data / "train").rglob("*.png"))[1:]:
        path.write_text("no image")
    with pytest.raises(PlanError, match=r"could be read|cannot identify"):
        finetune(run_config(checkpoint, write_many_bad(data), tmp_path / "run"))


def write_many_bad(data: Path) -> Path:
    for number in range(100, 160):
        (data / f"train/red/{number}.png").write_text("no image")
    return data


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path, data: Path):
    """Without BatchNorm's own statistics; the classifier alone trains, on evaluation-mode features."""
    checkpoint = write_checkpoint(tmp_path / "model")
    finetune(run_config(checkpoint, data, tmp_path / "whole", train="fc.*"))
    finetune(run_config(checkpoint, data, tmp_path / "parts", train="fc.*", grad_accum_steps=4))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_the_summary_has_a_row_per_epoch_with_cost(checkpoint: Path, data: Path, tmp_path: Path):
    result = finetune(run_config(checkpoint, data, tmp_path / "run"))
    rows = list(csv.DictReader((tmp_path / "run/summary.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    records = read_metrics(tmp_path / "run", "epoch")
    assert [float(row["top1"]) for row in rows] == [record["top1"] for record in records]
    assert [record["macs"] for record in records] == [0, result.macs // 2, result.macs]


def test_a_line_cut_short_by_a_crash_is_left_out_but_damage_is_not(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "step", "step": 1}\n{"event": "st')
    assert [event["step"] for event in read_events(path)] == [1]
    path.write_text('{"ev\n{"event": "step", "step": 1}\n')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl:1: not JSON"):
        list(read_events(path))
    for line in (
        "3",
        "{}",
        '{"event": "step", "step": "1"}',
        '{"event": [], "step": 1}',
        '{"event": "epoch", "step": 1}',
    ):
        path.write_text(line + '\n{"event": "step", "step": 1}\n')
        with pytest.raises(CheckpointError, match=r"metrics.jsonl:1: found no (record of a run|number of the epoch)"):
            list(read_events(path))
    path.write_bytes(b'{"event": "step", "step": 1}\n\xff')
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: cannot be read \(.*utf-8"):
        list(read_events(path))


def test_trackers_are_told_and_missing_ones_named(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[tuple[dict[str, float], int]] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: told.append(({}, -1))  # type: ignore[attr-defined]
    fake.log = lambda values, step: told.append((values, step))  # type: ignore[attr-defined]
    fake.finish = lambda: told.append(({}, -2))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setitem(sys.modules, "trackio", None)
    finetune(run_config(checkpoint, data, tmp_path / "run", epochs=1, log=("wandb",)))
    assert told[0][1] == -1 and told[-1][1] == -2
    assert any("epoch/top1" in values for values, _ in told)
    with pytest.raises(PlanError, match=r"--log trackio: not installed; pip install trackio"):
        finetune(run_config(checkpoint, data, tmp_path / "other", log=("trackio",)))


def test_a_new_journal_forgets_the_old_one(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "step", "step": 1}\n')
    with Journal(tmp_path):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == ""
