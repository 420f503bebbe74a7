"""What a run takes for the options that are left unset, what it says of it, and what it says where it did harm."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from typer.testing import CliRunner

import growtool
from growtool.checkpoint import open_checkpoint
from growtool.cli.app import app
from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.options.defaults import choose, in_words, network_of, shown
from growtool.finetune.run import finetune
from growtool.finetune.update.growth_report import grown_with_losses
from tests.support.finetune import UNCLOSED_IMAGES, Notices, losses, run_config, write_checkpoint

pytestmark = UNCLOSED_IMAGES
UNSET: dict[str, Any] = {"lr": None, "warmup_steps": None, "train_crop_mode": None}
VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}


class Chosen(Notices):
    def chose(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def vit() -> Any:
    return timm.create_model("vit_tiny_patch16_224", **VIT)


@pytest.fixture(scope="module")
def resnet() -> Any:
    return timm.create_model("resnet18", channels=(4, 4, 4, 4), num_classes=3)


def words(model: Any, *, lossy: bool = False, steps: int = 240, **options: Any) -> str:
    config = RunConfig(checkpoint=Path("c"), data=Path("d"), output=Path("o"), **options)
    return in_words(choose(config, model, lossy=lossy, steps=steps, per_epoch=80))


def test_a_trained_transformer_of_small_images_is_handled_with_care(vit: Any):
    assert words(vit) == (
        "defaults: lr 1e-4 (AdamW, transformer), weight decay 0.05, warm-up 0.3 epochs, "
        "crops of 80 to 100 % (32-pixel images), clipping at norm 1"
    )


def test_a_batchnorm_network_of_large_images_is_handled_as_timm_does(resnet: Any):
    assert words(resnet, opt="sgd") == (
        "defaults: lr 0.03 (SGD, BatchNorm network), weight decay 5e-4, warm-up 0.3 epochs, "
        "crops of 8 to 100 % (224-pixel images)"
    )


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, "1e-4 (AdamW, transformer)"),
        ({"lossy": True}, "3e-4 (AdamW, transformer, grown with losses)"),
        ({"from_scratch": True}, "0.001 (AdamW, transformer, never trained)"),
        ({"lora_rank": 2}, "3e-4 (AdamW, transformer, adapters)"),
        ({"opt": "lion"}, "3e-5 (Lion, transformer)"),
        ({"opt": "sgd"}, "0.01 (SGD, transformer)"),
        ({"opt": "lookahead_adamw"}, "1e-4 (AdamW, transformer)"),
        ({"opt": "swan"}, "1e-4 (Swan, transformer)"),
        ({"opt": "fusedadam"}, "1e-4 (FusedAdam, transformer)"),
    ],
)
def test_the_rate_follows_from_optimizer_network_and_weights(vit: Any, options: dict[str, Any], rate: str):
    assert f"lr {rate}" in words(vit, **options)


def test_what_is_given_wins_and_is_not_spoken_of(vit: Any):
    given: dict[str, Any] = {
        "lr": 1.0,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        "train_crop_mode": "rrc",
        "clip_grad": 0,
    }
    assert words(vit, **given) == ""
    assert "warm-up" not in words(vit, sched="none")
    assert "crops" not in words(vit, no_aug=True)
    assert "crops of 30 to 100 % (scale)" in words(vit, scale=(0.3, 1.0))


def test_a_warm_up_is_a_tenth_of_the_run_and_at_most_five_epochs(vit: Any):
    assert "warm-up 5 epochs" in words(vit, steps=8000)
    assert "no warm-up in so few updates" in words(vit, steps=4)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("resnet18", "BatchNorm network"),
        ("seresnet18", "BatchNorm network"),
        ("resnest14d", "BatchNorm network"),
        ("swin_tiny_patch4_window7_224", "transformer"),
        ("cait_xxs24_224", "transformer"),
        ("convnext_atto", "network without BatchNorm"),
    ],
)
def test_networks_are_told_apart(name: str, network: str):
    import torch

    with torch.device("meta"):
        assert network_of(timm.create_model(name)) == network


def test_numbers_are_shown_as_people_write_them():
    assert [shown(x) for x in (1e-4, 3e-5, 2.5e-4, 0.03, 0.001, 1.0, 0.0)] == [
        "1e-4", "3e-5", "2.5e-4", "0.03", "0.001", "1", "0",
    ]  # fmt: skip


def test_the_run_notes_what_it_chose_and_goes_on_with_it(checkpoint: Path, data: Path, tmp_path: Path):
    """Even where the defaults are others by then, and to the bit."""
    settings: dict[str, Any] = {"epochs": 4, "recovery_interval": 1, "checkpoint_hist": 20, **UNSET}
    watcher = Chosen()
    finetune(run_config(checkpoint, data, tmp_path / "run", **settings), watcher)
    assert watcher.said == [
        "defaults: lr 1e-4 (AdamW, BatchNorm network), weight decay 0.05, warm-up 0.33 epochs, "
        "crops of 80 to 100 % (32-pixel images)"
    ]
    path = tmp_path / "run/config.yaml"
    written = yaml.safe_load(path.read_text())
    chosen = written["resolved"]["defaults"]
    assert {name: (entry["value"], entry["reason"]) for name, entry in chosen.items()} == {
        "lr": (1e-4, "AdamW, BatchNorm network"), "weight_decay": (0.05, "AdamW"),
        "warmup_steps": (1, "a tenth of the run"), "train_crop_mode": ("rkrr", "32-pixel images"),
    }  # fmt: skip
    assert all(written[name] is None for name in chosen)
    before, back = losses(tmp_path / "run"), str(tmp_path / "run/checkpoints/step-00000005")
    finetune(run_config(checkpoint, data, tmp_path / "run", resume=back, **settings), watcher)
    assert losses(tmp_path / "run") == before and len(watcher.said) == 2 and "given up" in watcher.said[1]
    chosen["lr"]["value"] = 0.5
    path.write_text(yaml.safe_dump(written))
    finetune(run_config(checkpoint, data, tmp_path / "run", resume=back, **settings))
    assert losses(tmp_path / "run") != before
    with pytest.raises(PlanError, match=r"--resume: lr was 0.5 in .*, found 0.1"):
        finetune(run_config(checkpoint, data, tmp_path / "run", resume=back, **{**settings, "lr": 0.1}))


def test_a_run_of_before_goes_on_with_what_it_did(checkpoint: Path, data: Path, tmp_path: Path):
    """Its configuration says everything and has no note on what was chosen."""
    finetune(run_config(checkpoint, data, tmp_path / "run", weight_decay=0.05, recovery_interval=1, checkpoint_hist=20))
    path = tmp_path / "run/config.yaml"
    written = yaml.safe_load(path.read_text())
    for name in ("warmup_steps", "from_scratch", "plugins"):
        del written[name]
    del written["resolved"]["defaults"]
    path.write_text(yaml.safe_dump(written))
    before, back = losses(tmp_path / "run"), str(tmp_path / "run/checkpoints/step-00000002")
    finetune(run_config(checkpoint, data, tmp_path / "run", resume=back, **UNSET))
    assert losses(tmp_path / "run") == before


def test_growth_with_losses_counts_until_something_has_trained(checkpoint: Path, tmp_path: Path):
    assert not grown_with_losses(open_checkpoint(checkpoint))
    for operator, lossy in (("tile", False), ("random", True)):
        plan = {"target": {"scale": {"width": 2}}, "width": {"operator": operator}}
        growtool.grow(checkpoint, plan, tmp_path / operator)
        assert grown_with_losses(open_checkpoint(tmp_path / operator)) == lossy
    (tmp_path / "random/training.json").write_text("{}")
    assert not grown_with_losses(open_checkpoint(tmp_path / "random"))


HARMFUL = "--epochs 1 -b 8 --lr 10 --opt sgd --weight-decay 0.1 --train-crop-mode rrc --mixup 0.2".split()


def test_a_run_that_did_harm_says_so_with_a_command_that_can_be_given(tmp_path: Path, data: Path):
    """From a checkpoint that knows the images, at a rate that makes it forget them."""
    fresh = write_checkpoint(tmp_path / "fresh")
    finetune(run_config(fresh, data, tmp_path / "good", epochs=8))
    common = [str(tmp_path / "good/best"), "--data", str(data), "--workers", "0", "--device", "cpu"]
    harmed = CliRunner().invoke(app, ["finetune", *common, *HARMFUL, "-o", str(tmp_path / "run")])
    assert harmed.exit_code == 0, harmed.exception
    lines = harmed.stdout.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith("the best epoch is "))
    assert re.fullmatch(
        r"the best epoch is \d+\.\d\d points below where it began \(one standard error of so many images: "
        r"\d+\.\d\d\); take --lr 0\.03 \(now 10\), --weight-decay 5e-4 \(now 0\.1\), --train-crop-mode rkrr "
        r"\(now rrc\), --set color_jitter=0 \(now 0\.4\), --mixup 0 \(now 0\.2\), --epochs 3 \(now 1\), with",
        lines[number],
    )
    given = shlex.split(lines[number + 1])
    assert given[:2] == ["growtool", "finetune"]
    again = CliRunner().invoke(app, [*given[1:], "--json"])
    assert again.exit_code == 0, again.exception
    document = json.loads(again.stdout)
    assert document["output"] == str(tmp_path / "run-2") and document["best"]["epoch"] >= 1
    assert (document["shortfall"] is None) == (document["best"]["top1"] >= document["initial"]["top1"])
