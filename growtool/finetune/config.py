"""The configuration of a run, and the checks of its options against each other.

This module imports no torch, so that the command line can build a configuration at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from growtool.finetune.options.choices import AmpDtype
from growtool.finetune.options.kinds import FilePath, Source
from growtool.finetune.options.lengths import updates_of
from growtool.finetune.options.settings import (
    DEFAULT_EMA_DECAY,
    DEFAULT_EPOCHS,
    DEFAULT_KD_WEIGHT,
    RATE,
    Settings,
    flag_of,
)
from growtool.plan.section import problem

STATELESS = "swan"  # growtool's own optimizer; all others are timm's
ALTERNATIVES = (
    ("epochs", "steps", "macs"),
    ("warmup_epochs", "warmup_steps"),
    ("decay_epochs", "decay_steps"),
)
"""Groups of options of which at most one may be given."""
Finding = tuple[tuple[str, ...], str]
"""The names of options, and what is wrong with them."""
_COMPANIONS = {
    "amp": ("amp_dtype",),
    "model_ema": ("model_ema_decay",),
    "kd_teacher": ("kd_weight", "kd_temperature", "kd_anneal"),
    "carry_optimizer": ("new_state",),
    "lora_rank": ("lora_alpha", "lora_targets"),
    "clip_grad": ("clip_mode",),
}
"""An option -> the options that only have an effect while it is on."""


class RunConfig(Settings):
    """The configuration of a run: settings that do not contradict each other, with checkpoint, data and output."""

    checkpoint: Source = Field(description="the checkpoint to train")
    data: FilePath = Field(description="a folder of images")
    output: FilePath = Field(description="the folder of the run")

    @model_validator(mode="after")
    def _go_together(self) -> RunConfig:
        """Raise for all contradictions at once."""
        errors = [
            InitErrorDetails(type=problem(text), loc=names, input=None)
            for names, text in (*_contradictions(self), *_without_effect(self))
        ]
        if errors:
            raise ValidationError.from_exception_data("RunConfig", errors)
        return self

    def changes(self, name: str) -> bool:
        """Return whether an option has another value than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))

    @property
    def images_at_once(self) -> int:
        """Images that pass through the model at once, in all processes together."""
        return self.batch_size // self.grad_accum_steps

    @property
    def autocast(self) -> AmpDtype | None:
        """Name of the type for mixed precision; None without it."""
        return (self.amp_dtype or "bfloat16") if self.amp else None

    @property
    def ema_decay(self) -> float | None:
        """Decay of the weight average; None without one."""
        return (DEFAULT_EMA_DECAY if self.model_ema_decay is None else self.model_ema_decay) if self.model_ema else None

    @property
    def teaching(self) -> float:
        """Weight of the teacher's term in the loss at the first update."""
        return DEFAULT_KD_WEIGHT if self.kd_weight is None else self.kd_weight

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix turns labels into distributions over classes."""
        return self.mixup > 0 or self.cutmix > 0

    def budget(self, updates_per_epoch: int, macs_per_update: int = 0) -> int:
        """Return the updates of the whole run; `macs_per_update` is needed only if the budget is in MACs."""
        if self.macs is not None:
            return int(self.macs // macs_per_update)
        return self.steps if self.steps is not None else (self.epochs or DEFAULT_EPOCHS) * updates_per_epoch

    def warmup(self, updates_per_epoch: int) -> int:
        """Return the updates of the warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_epochs or 0) * updates_per_epoch)

    def warmup_of_new(self, updates: int, updates_per_epoch: int) -> int:
        """Return the updates of the warm-up of what growth added, in a run of so many `updates`."""
        return updates_of(self.new_warmup or "0", whole=updates, per_epoch=updates_per_epoch)

    def decay(self, updates_per_epoch: int) -> float | None:
        """Return the updates of the decay; below 1 its share of what the warm-up leaves; None for timm's default."""
        if self.decay_epochs is None or self.decay_epochs < 1:
            return self.decay_steps or self.decay_epochs
        return round(self.decay_epochs * updates_per_epoch)

    def course(self, updates: int) -> int:
        """Return the updates of the rate's whole course, of which a run of so many `updates` may be a part."""
        return self.sched_steps or self.sched_start + updates


def _contradictions(config: RunConfig) -> Iterator[Finding]:
    """Yield options that exclude each other, or whose values do not go together."""
    for group in ALTERNATIVES:
        given = tuple(name for name in group if getattr(config, name) is not None)
        if len(given) > 1:
            yield given, f"{len(given)} given, expected one of them; drop the others"
    flips = _changed(config, "hflip") if config.hflip else ()
    if config.no_aug and (others := (*_changed(config, "aa", "reprob", "train_crop_mode", "scale"), *flips)):
        yield ("no_aug",), f"contradicts {' and '.join(map(flag_of, others))}; drop one side"
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
    if config.new_warmup is not None and config.opt.lower().startswith("lookahead_"):
        yield ("new_warmup",), "does not go with lookahead, which keeps weights of its own; use the optimizer without"
    if config.engine == "fsdp" and config.autocast == "float16":
        yield ("amp_dtype",), "float16 does not go with --engine fsdp, whose gradients are in shards; use bfloat16"
    if config.engine == "fsdp" and config.clip_grad is not None and config.clip_mode == "agc":
        yield ("clip_mode",), "agc does not go with --engine fsdp, whose weights are in shards; use norm"


def _without_effect(config: RunConfig) -> Iterator[Finding]:
    """Yield options that were given and would do nothing."""
    for owner, companions in _COMPANIONS.items():
        if not getattr(config, owner):
            for name in _changed(config, *companions):
                yield (name,), f"given without {flag_of(owner)}, so it would do nothing; add {flag_of(owner)}"
    if config.kd_teacher is not None and config.kd_weight == 0:
        yield (
            ("kd_weight",),
            "found 0, with which --kd-teacher would do nothing; drop both, or give it a part in the loss",
        )
    rates = _changed(config, *RATE[1:], "layer_decay")
    decay = _changed(config, "decay_epochs", "decay_steps", "lr_decay_fn")
    if config.sched == "none" and rates:
        yield rates, "without effect under --sched none, which leaves the rate alone; use constant"
    elif config.sched != "wsd" and decay:
        yield decay, f"without effect under --sched {config.sched}, whose fall has no length of its own; use wsd"
    elif config.sched == "constant" and config.min_lr:
        yield ("min_lr",), "without effect under --sched constant, which never falls; use cosine or wsd"
    if config.warmup_lr and 0 in (config.warmup_epochs, config.warmup_steps):
        yield ("warmup_lr",), "given without a warm-up, so it would do nothing; add --warmup-epochs or --warmup-steps"
    own_colours = config.aa is not None and "3a" not in config.aa  # timm adds jitter to its policy 3a alone
    if config.color_jitter and config.changes("color_jitter") and (config.no_aug or own_colours):
        cause = "--no-aug" if config.no_aug else f"--aa {config.aa}, whose policy has colours of its own"
        yield ("color_jitter",), f"without effect under {cause}; drop one of them"
    if config.lora_rank:
        for name in _changed(config, "lr_factors", "carry_optimizer", "new_warmup"):
            yield (name,), "given with --lora-rank, but is about the weights, which adapters keep as they are; drop one"


def _changed(config: RunConfig, *names: str) -> tuple[str, ...]:
    """Return those of the named options whose value is not the default."""
    return tuple(name for name in names if config.changes(name))
