"""A fresh head for other classes, and what a checkpoint gets right, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from growtool.cli.app import app
from growtool.errors import PlanError
from growtool.finetune.prepare import prepare
from growtool.finetune.run import finetune
from tests.support.finetune import UNCLOSED_IMAGES, change_config, run_config, write_checkpoint, write_data

pytestmark = UNCLOSED_IMAGES
FOUR = ("blue", "green", "red", "violet")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Three classes with names of their own."""
    folder = write_checkpoint(tmp_path / "model")
    change_config(folder, label_names=["cat", "dog", "horse"])
    return folder


def test_a_fresh_head_trains_on_other_classes_and_timm_loads_it(checkpoint: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", classes=FOUR)
    settings: dict[str, Any] = {"num_classes": 4, "epochs": 1, "opt": "sgd", "lr": 0.0}
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings))
    last = tmp_path / "run/last"
    model = timm.create_model(f"local-dir:{last}", pretrained=True)
    before, after = load_file(checkpoint / "model.safetensors"), load_file(last / "model.safetensors")
    assert model.num_classes == 4
    torch.testing.assert_close(model.get_classifier().weight.data, after["fc.weight"], rtol=0, atol=0)
    assert after["fc.weight"].shape[0] == 4 and not torch.equal(after["fc.weight"][:3], before["fc.weight"])
    torch.testing.assert_close(after["conv1.weight"], before["conv1.weight"], rtol=0, atol=0)
    config = json.loads((last / "config.json").read_text())
    assert config["label_names"] == list(FOUR) and config["num_classes"] == 4


def test_a_fresh_head_starts_without_the_old_ones_optimizer_state(checkpoint: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "opt": "rmsprop", "carry_optimizer": True}
    first = write_data(tmp_path / "first", classes=("cat", "dog", "horse"))
    finetune(run_config(checkpoint, first, tmp_path / "run", **settings | {"carry_optimizer": False}))
    four = write_data(tmp_path / "data", classes=FOUR)
    result = finetune(run_config(tmp_path / "run/last", four, tmp_path / "other", num_classes=4, **settings))
    assert result.steps
    same = run_config(tmp_path / "run/last", first, tmp_path / "same", num_classes=3, **settings)
    trainer = prepare(same, torch.device("cpu")).trainer
    held = {name for name, parameter in trainer.model.named_parameters() if trainer.optimizer.state[parameter]}
    assert dict(trainer.model.named_parameters()).keys() - held == {"fc.weight", "fc.bias"}


def test_a_fresh_head_follows_from_the_seed(checkpoint: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", classes=FOUR)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        finetune(run_config(checkpoint, data, tmp_path / name, num_classes=4, epochs=1, lr=0.0, seed=seed))
    a, b, c = (load_file(tmp_path / name / "last/model.safetensors")["fc.weight"] for name in "abc")
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_other_classes_are_refused_with_the_option_that_helps(checkpoint: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", classes=FOUR)
    with pytest.raises(PlanError, match=r"fresh head with --num-classes 4"):
        finetune(run_config(checkpoint, data, tmp_path / "run"))
    with pytest.raises(PlanError, match=r"found 4 class folders .*, expected 7, .*--num-classes 4"):
        finetune(run_config(checkpoint, data, tmp_path / "run", num_classes=7))


def test_evaluate_says_what_a_checkpoint_gets_right(tmp_path: Path) -> None:
    folder, data = write_checkpoint(tmp_path / "model"), write_data(tmp_path / "data")
    words = ["evaluate", str(folder), "--data", str(data), "--device", "cpu", "--workers", "0", "--batch-size", "5"]
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["count"] == 12 and found["top5"] == 100 and 0 <= found["top1"] <= 100
    shown = CliRunner().invoke(app, words)
    assert shown.stderr == "" and f"{found['top1']:.2f} %" in shown.stdout and "12" in shown.stdout
