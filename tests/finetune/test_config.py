"""Options that cannot be meant are all named at once, before anything is read."""

import re
from pathlib import Path
from typing import Any

import pytest

from growtool.errors import PlanError
from growtool.finetune.config import RunConfig
from growtool.finetune.options.merging import make_config


def config(**changes: Any) -> RunConfig:
    return make_config({"checkpoint": "c", "data": "d", "output": "o"}, changes)


def problems_of(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(PlanError) as caught:
        config(**changes)
    return caught.value.problems


BAD: list[tuple[dict[str, Any], str]] = [
    ({"epochs": 0}, r"--epochs: found 0, expected at least 1"),
    ({"batch_size": 0}, r"--batch-size: found 0, expected at least 1"),
    ({"workers": -1}, r"--workers: found -1, expected at least 0"),
    ({"lr": -0.1}, r"--lr: found -0.1, expected at least 0"),
    ({"lr": float("nan")}, r"--lr: found nan, expected a finite number"),
    ({"hflip": 1.5}, r"--set hflip: found 1.5, expected at most 1"),
    ({"smoothing": 1.0}, r"--smoothing: found 1.0, expected less than 1"),
    ({"scale": (0.5, 0.2)}, r"--scale: found \(0.5, 0.2\), expected two numbers with 0 < LOW <= HIGH <= 1"),
    ({"sched": "linear"}, r"--sched: found 'linear', expected one of cosine, wsd, constant, none"),
    ({"train_crop_mode": "fit"}, r"--train-crop-mode: found 'fit', expected one of rrc, rkrc, rkrr"),
    ({"clip_mode": "max", "clip_grad": 1.0}, r"--set clip_mode: found 'max', expected one of norm, value, agc"),
    ({"layer_decay": 0.0}, r"--layer-decay: found 0.0, expected more than 0"),
    ({"kd_weight": 2.0, "kd_teacher": Path("t")}, r"--kd-weight: found 2.0, expected at most 1"),
    ({"log": ("mlflow",)}, r"--log: found 'mlflow', expected one of tensorboard, wandb, trackio"),
    ({"grad_accum_steps": 3}, r"--grad-accum-steps: found 3, expected a divisor of --batch-size \(128\)"),
    ({"freeze_epochs": 2}, r"--freeze-epochs: given with --train all, so there is nothing to freeze"),
    ({"lora_rank": 4, "train": "fc.*"}, r"--lora-rank: given with --train, expected one of them"),
    ({"resume": "auto", "force": True}, r"--resume: contradicts --force, which replaces the run; drop one"),
    ({"engine": "fsdp", "amp": True, "amp_dtype": "float16"}, r"--amp-dtype: float16 does not go with --engine fsdp"),
    ({"amp": True, "amp_dtype": "float8"}, r"--amp-dtype: found 'float8', expected one of bfloat16, float16"),
    ({"model_ema": True, "model_ema_decay": 1.0}, r"--model-ema-decay: found 1.0, expected less than 1"),
    ({"epochs": 1, "steps": 5}, r"--epochs and --steps: 2 given, expected one of them; drop the others"),
    ({"warmup_epochs": 1, "warmup_steps": 5}, r"--warmup-epochs and --warmup-steps: 2 given"),
    ({"amp_dtype": "float16"}, r"--amp-dtype: given without --amp, so it would do nothing; add --amp"),
    ({"model_ema_decay": 0.9}, r"--model-ema-decay: given without --model-ema, so it would do nothing"),
    ({"no_aug": True, "aa": "v0", "scale": (0.5, 1)}, r"--no-aug: contradicts --aa and --scale; drop one side"),
    ({"no_aug": True, "color_jitter": 0.2}, r"--set color_jitter: without effect under --no-aug; drop one"),
    ({"aa": "rand-m9", "color_jitter": 0.2}, r"--set color_jitter: without effect under --aa rand-m9, whose"),
    ({"kd_weight": 0.5}, r"--kd-weight: given without --kd-teacher, so it would do nothing; add --kd-teacher"),
    ({"kd_anneal": "linear"}, r"--set kd_anneal: given without --kd-teacher, so it would do nothing"),
    ({"kd_temperature": 2.0}, r"--set kd_temperature: given without --kd-teacher"),
    ({"kd_teacher": Path("t"), "kd_weight": 0.0}, r"--kd-weight: found 0, with which --kd-teacher would do nothing"),
    ({"lora_alpha": 4.0}, r"--set lora_alpha: given without --lora-rank, so it would do nothing"),
    ({"clip_mode": "agc"}, r"--set clip_mode: given without --clip-grad, so it would do nothing"),
    ({"sched": "none", "warmup_steps": 2, "layer_decay": 0.9}, r"--warmup-steps and --layer-decay: without effect"),
    ({"sched": "cosine", "decay_steps": 4}, r"--set decay_steps: without effect under --sched cosine, whose fall has"),
    ({"sched": "none", "sched_start": 4}, r"--set sched_start: without effect under --sched none"),
    ({"sched": "wsd", "decay_steps": 4, "decay_epochs": 2}, r"--decay-epochs and --set decay_steps: 2 given"),
    ({"sched": "constant", "min_lr": 1e-5}, r"--set min_lr: without effect under --sched constant"),
    ({"warmup_lr": 1e-5, "warmup_steps": 0}, r"--set warmup_lr: given without a warm-up, so it would do nothing"),
    ({"lora_rank": 4, "lr_factors": True}, r"--lr-factors: given with --lora-rank, but is about the weights"),
    ({"new_state": "reset"}, r"--new-state: given without --carry-optimizer, so it would do nothing"),
    ({"lora_rank": 4, "new_warmup": 0.1}, r"--new-warmup: given with --lora-rank, but is about the weights"),
    ({"new_warmup": 0.1, "opt": "lookahead_adamw"}, r"--new-warmup: does not go with lookahead, which keeps weights"),
    ({"new_warmup": 200}, r"--new-warmup: found 200, expected a share of the whole below 1, or a number of epochs or"),
    ({"mixup": 0.2, "batch_size": 5}, r"--batch-size: found 5, expected an even number because mixup"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[re.sub(r"\W+", "-", message)[:30] for _, message in BAD])
def test_a_bad_option_is_named_with_what_was_expected(changes: dict[str, Any], message: str):
    problems = problems_of(**changes)
    assert len(problems) == 1
    assert re.match(message, problems[0])


def test_every_bad_option_is_named_at_once():
    assert len(problems_of(epochs=0, lr=-1, sched="x", amp=1)) == 4
    assert len(problems_of(kd_weight=0.5, model_ema_decay=0.5, epochs=1, steps=1)) == 3


def test_the_defaults_are_sound():
    assert config().as_dict()["lr"] is None


@pytest.mark.parametrize(
    "changes", [{"no_aug": True, "hflip": 0, "color_jitter": 0}, {"aa": "v0", "color_jitter": 0}, {"kd_teacher": "t"}]
)
def test_what_is_as_it_would_be_anyway_is_no_contradiction(changes: dict[str, Any]):
    assert isinstance(config(**changes), RunConfig)


def test_epochs_and_steps_say_how_many_updates():
    assert config(epochs=3).budget(updates_per_epoch=7) == 21
    assert config(steps=5).budget(updates_per_epoch=7) == 5
    assert config(warmup_epochs=0.5).warmup(updates_per_epoch=8) == 4
    assert config(warmup_steps=3).warmup(updates_per_epoch=8) == 3
    assert config(sched="wsd", decay_epochs=1.5).decay(updates_per_epoch=8) == 12
    assert config(sched="wsd", decay_epochs=0.1).decay(updates_per_epoch=8) == 0.1
    assert config(sched="wsd", decay_steps=3).decay(updates_per_epoch=8) == 3


def test_an_option_that_is_off_leaves_its_companion_unset():
    assert (config().autocast, config().ema_decay) == (None, None)
    assert config(amp=True).autocast == "bfloat16"
    assert config(model_ema=True).ema_decay == 0.9998
