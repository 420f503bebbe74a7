"""What can be seen to be wrong with a configuration without looking at a file."""

from __future__ import annotations

import math
from collections.abc import Iterator

from growtool.errors import LARGEST
from growtool.finetune.choices import AmpDtype, CropMode, Engine, Nonfinite, Schedule
from growtool.finetune.config import (
    ALTERNATIVES,
    ANNEALING,
    CLIP_MODES,
    TRACKERS,
    RunConfig,
)

_NOT_NEGATIVE = (
    "lr", "weight_decay", "warmup_epochs", "color_jitter", "mixup", "cutmix", "min_lr", "warmup_lr",
    "momentum", "clip_grad",
)  # fmt: skip
_PROBABILITIES = ("hflip", "reprob", "kd_weight", "drop_path")
_COMPANIONS = {
    "amp": ("amp_dtype",),
    "model_ema": ("model_ema_decay",),
    "kd_teacher": ("kd_weight", "kd_temperature", "kd_anneal"),
    "lora_rank": ("lora_alpha", "lora_targets"),
    "clip_grad": ("clip_mode",),
}
"""Options that say how another one does its work, by that one; set to something while it is off, they do nothing."""


def find_problems(config: RunConfig) -> list[str]:
    """Everything that can be seen to be wrong without looking at a file, one line each."""
    return [*_bad_ranges(config), *_bad_choices(config), *_contradictions(config), *_without_effect(config)]


def _bad_ranges(config: RunConfig) -> Iterator[str]:
    counts = {
        "epochs": 1,
        "steps": 1,
        "num_classes": 1,
        "batch_size": 1,
        "log_interval": 1,
        "workers": 0,
        "grad_accum_steps": 1,
        "freeze_epochs": 0,
        "lora_rank": 0,
        "recalibrate": 0,
        "eval_interval": 0,
        "recovery_interval": 0,
        "checkpoint_hist": 1,
        "warmup_steps": 0,
        "seed": 0,
    }
    for name, least in counts.items():
        value = getattr(config, name)
        if value is not None and value < least:
            yield f"{_flag(name)}: found {value}, expected {least} or more"
        if value is not None and value > LARGEST:
            yield f"{_flag(name)}: found {value}, expected an integer of less than 64 bits"
    for name in _NOT_NEGATIVE:
        value = getattr(config, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            yield f"{_flag(name)}: found {value}, expected a number that is not negative"
    for name in _PROBABILITIES:
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            yield f"{_flag(name)}: found {value}, expected a probability between 0 and 1"
    if not 0 <= config.smoothing < 1:
        yield f"--smoothing: found {config.smoothing}, expected 0 or more and less than 1"
    if config.model_ema_decay is not None and not 0 <= config.model_ema_decay < 1:
        yield f"--model-ema-decay: found {config.model_ema_decay}, expected 0 or more and less than 1, e.g. 0.9998"
    for name in ("layer_decay", "kd_temperature", "lora_alpha", "macs"):
        value = getattr(config, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            yield f"{_flag(name)}: found {value}, expected a number greater than 0"
    low, high = config.scale or (0.5, 1.0)
    if not 0 < low <= high <= 1:
        yield f"--scale: found {low} {high}, expected two numbers with 0 < LOW <= HIGH <= 1, e.g. 0.3 1.0"


def _bad_choices(config: RunConfig) -> Iterator[str]:
    for name, choices in (
        ("sched", tuple(Schedule)),
        ("amp_dtype", tuple(AmpDtype)),
        ("train_crop_mode", tuple(CropMode)),
        ("clip_mode", CLIP_MODES),
        ("kd_anneal", ANNEALING),
        ("nonfinite", tuple(Nonfinite)),
        ("engine", tuple(Engine)),
    ):
        value = getattr(config, name)
        if value is not None and value not in choices:
            yield f"{_flag(name)}: found {value!r}, expected one of {', '.join(choices)}"
    for name in config.log:
        if name not in TRACKERS:
            yield f"--log: found {name!r}, expected one of {', '.join(TRACKERS)}"


def _contradictions(config: RunConfig) -> Iterator[str]:
    for group in ALTERNATIVES:
        given = [_flag(name) for name in group if getattr(config, name) is not None]
        if len(given) > 1:
            yield f"{' and '.join(given)}: {len(given)} given, expected one of them; drop the others"
    flips = _changed(config, "hflip") if config.hflip else []
    if config.no_aug and (others := [*_changed(config, "aa", "reprob", "train_crop_mode", "scale"), *flips]):
        yield f"--no-aug: contradicts {' and '.join(others)}; drop one side"
    if config.mixes and config.batch_size % 2:
        yield f"--batch-size: found {config.batch_size}, expected an even number because mixup and cutmix pair images"
    if config.batch_size % config.grad_accum_steps:
        yield (
            f"--grad-accum-steps: found {config.grad_accum_steps}, expected a divisor of --batch-size "
            f"({config.batch_size}), the images of one update"
        )
    if config.resume is not None and config.force:
        yield "--resume: contradicts --force, which replaces the run; drop one"
    if config.freeze_epochs and config.train == "all":
        yield "--freeze-epochs: given with --train all, so there is nothing to freeze; say what trains first"
    if config.freeze_epochs and config.lora_rank:
        yield "--freeze-epochs: given with --lora-rank, which keeps all but the adapters frozen; drop one"
    if config.lora_rank and config.train != "all":
        yield "--lora-rank: given with --train, expected one of them; choose layers with --set lora_targets=PATTERN"
    if config.engine == "fsdp" and config.autocast == "float16":
        yield "--amp-dtype: float16 does not go with --engine fsdp, whose gradients are in shards; use bfloat16"
    if config.engine == "fsdp" and config.clip_grad is not None and config.clip_mode == "agc":
        yield "--clip-mode: agc does not go with --engine fsdp, whose weights are in shards; use norm"


def _without_effect(config: RunConfig) -> Iterator[str]:
    for owner, companions in _COMPANIONS.items():
        for flag in _changed(config, *companions) if not getattr(config, owner) else ():
            yield f"{flag}: given without {_flag(owner)}, so it would do nothing; add {_flag(owner)}"
    if config.kd_teacher is not None and config.kd_weight == 0:
        yield "--kd-weight: found 0, with which --kd-teacher would do nothing; drop both, or give it a part in the loss"
    rates = _changed(config, "warmup_epochs", "warmup_steps", "warmup_lr", "min_lr", "layer_decay")
    if config.sched == "none" and rates:
        yield f"{' and '.join(rates)}: without effect under --sched none, which leaves the rate alone; use constant"
    elif config.sched == "constant" and config.min_lr:
        yield "--min-lr: without effect under --sched constant, which never falls; use cosine or wsd"
    if config.warmup_lr and 0 in (config.warmup_epochs, config.warmup_steps):
        yield "--warmup-lr: given without a warm-up, so it would do nothing; add --warmup-epochs or --warmup-steps"
    own_colours = config.aa is not None and "3a" not in config.aa
    if config.color_jitter and config.changes("color_jitter") and (config.no_aug or own_colours):
        cause = "--no-aug" if config.no_aug else f"--aa {config.aa}, whose policy has colours of its own"
        yield f"--color-jitter: without effect under {cause}; drop one of them"
    if config.lora_rank:
        for flag in _changed(config, "lr_factors", "carry_optimizer"):
            yield f"{flag}: given with --lora-rank, but is about the weights, which adapters keep as they are; drop one"


def _changed(config: RunConfig, *names: str) -> list[str]:
    """Those of the options that were set to something, as flags."""
    return [_flag(name) for name in names if config.changes(name)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
