"""What options contradict each other, or do nothing as they were given; each alone is looked at by its type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from growtool.finetune.settings import flag_of

if TYPE_CHECKING:
    from growtool.finetune.config import RunConfig

ALTERNATIVES = (("epochs", "steps", "macs"), ("warmup_epochs", "warmup_steps"))  # of each group one at most
Finding = tuple[tuple[str, ...], str]  # the options, and what is wrong with them
_COMPANIONS = {
    "amp": ("amp_dtype",),
    "model_ema": ("model_ema_decay",),
    "kd_teacher": ("kd_weight", "kd_temperature", "kd_anneal"),
    "lora_rank": ("lora_alpha", "lora_targets"),
    "clip_grad": ("clip_mode",),
}
"""Options that say how another one does its work, by that one; set to something while it is off, they do nothing."""


def find_contradictions(config: RunConfig) -> list[Finding]:
    """Everything that can be seen to be wrong between options without looking at a file."""
    return [*_contradictions(config), *_without_effect(config)]


def _contradictions(config: RunConfig) -> Iterator[Finding]:
    for group in ALTERNATIVES:
        given = tuple(name for name in group if getattr(config, name) is not None)
        if len(given) > 1:
            yield given, f"{len(given)} given, expected one of them; drop the others"
    flips = _changed(config, "hflip") if config.hflip else ()
    if config.no_aug and (others := (*_changed(config, "aa", "reprob", "train_crop_mode", "scale"), *flips)):
        yield ("no_aug",), f"contradicts {_and(others)}; drop one side"
    if config.mixes and config.batch_size % 2:
        yield (
            ("batch_size",),
            f"found {config.batch_size}, expected an even number because mixup and cutmix pair images",
        )
    if config.batch_size % config.grad_accum_steps:
        found, batch = config.grad_accum_steps, f"--batch-size ({config.batch_size}), the images of one update"
        yield ("grad_accum_steps",), f"found {found}, expected a divisor of {batch}"
    if config.resume is not None and config.force:
        yield ("resume",), "contradicts --force, which replaces the run; drop one"
    if config.freeze_epochs and config.train == "all":
        yield ("freeze_epochs",), "given with --train all, so there is nothing to freeze; say what trains first"
    if config.freeze_epochs and config.lora_rank:
        yield ("freeze_epochs",), "given with --lora-rank, which keeps all but the adapters frozen; drop one"
    if config.lora_rank and config.train != "all":
        yield ("lora_rank",), "given with --train, expected one of them; choose layers with --set lora_targets=PATTERN"
    if config.engine == "fsdp" and config.autocast == "float16":
        yield ("amp_dtype",), "float16 does not go with --engine fsdp, whose gradients are in shards; use bfloat16"
    if config.engine == "fsdp" and config.clip_grad is not None and config.clip_mode == "agc":
        yield ("clip_mode",), "agc does not go with --engine fsdp, whose weights are in shards; use norm"


def _without_effect(config: RunConfig) -> Iterator[Finding]:
    for owner, companions in _COMPANIONS.items():
        for name in _changed(config, *companions) if not getattr(config, owner) else ():
            yield (name,), f"given without {flag_of(owner)}, so it would do nothing; add {flag_of(owner)}"
    if config.kd_teacher is not None and config.kd_weight == 0:
        yield (
            ("kd_weight",),
            "found 0, with which --kd-teacher would do nothing; drop both, or give it a part in the loss",
        )
    rates = _changed(config, "warmup_epochs", "warmup_steps", "warmup_lr", "min_lr", "layer_decay")
    if config.sched == "none" and rates:
        yield rates, "without effect under --sched none, which leaves the rate alone; use constant"
    elif config.sched == "constant" and config.min_lr:
        yield ("min_lr",), "without effect under --sched constant, which never falls; use cosine or wsd"
    if config.warmup_lr and 0 in (config.warmup_epochs, config.warmup_steps):
        yield ("warmup_lr",), "given without a warm-up, so it would do nothing; add --warmup-epochs or --warmup-steps"
    own_colours = config.aa is not None and "3a" not in config.aa
    if config.color_jitter and config.changes("color_jitter") and (config.no_aug or own_colours):
        cause = "--no-aug" if config.no_aug else f"--aa {config.aa}, whose policy has colours of its own"
        yield ("color_jitter",), f"without effect under {cause}; drop one of them"
    for name in _changed(config, "lr_factors", "carry_optimizer") if config.lora_rank else ():
        yield (name,), "given with --lora-rank, but is about the weights, which adapters keep as they are; drop one"


def _changed(config: RunConfig, *names: str) -> tuple[str, ...]:
    """Those of the options that were set to something."""
    return tuple(name for name in names if config.changes(name))


def _and(names: Iterable[str]) -> str:
    return " and ".join(map(flag_of, names))
