"""The advice for a run whose best epoch is less accurate than its start: options to change, and the command."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from growtool.finetune.commands import beginning_anew
from growtool.finetune.job import Job
from growtool.finetune.options.defaults import AUTOMATIC, choose, network_of, shown
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.records import EpochRecord
from growtool.finetune.update.growth_report import grown_with_losses

_SHORT = 3  # epochs; fewer do not make up for the accuracy that the first updates cost


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A best epoch that is less accurate than the start of the run, and what to change.

    Attributes:
        points: difference of their top-1 accuracies in percentage points.
        standard_error: standard error of an accuracy on so many images, in percentage points.
        changes: the options to give, each with its present value.
        command: the command that begins a new run with these options.
    """

    points: float
    standard_error: float
    changes: tuple[str, ...]
    command: str

    def __str__(self) -> str:
        return (
            f"the best epoch is {self.points:.2f} points below where it began (one standard error of so many images: "
            f"{self.standard_error:.2f}); take {', '.join(self.changes)}, with\n{self.command}"
        )


def shortfall_of(job: Job, folder: RunFolder, initial: EpochRecord, best: EpochRecord, count: int) -> Shortfall | None:
    """Return the shortfall of a run; None if the best epoch is at least as accurate as the start.

    Args:
        count: number of evaluation images.
    """
    if best.top1 >= initial.top1:
        return None
    accuracy = initial.top1 / 100
    changes = list(_changes(job))
    return Shortfall(
        points=initial.top1 - best.top1,
        standard_error=100 * math.sqrt(accuracy * (1 - accuracy) / max(count, 1)),  # of a binomial proportion
        changes=tuple(f"{' '.join(words)} (now {now})" for words, now in changes),
        command=beginning_anew(folder.root, None, *(word for words, _ in changes for word in words)),
    )


def _changes(job: Job) -> Iterator[tuple[list[str], str]]:
    """Yield the words of each option to change, and its present value."""
    config, per_epoch = job.config, len(job.train)
    assert config.lr is not None and config.weight_decay is not None
    unset = config.model_copy(update=dict.fromkeys((*AUTOMATIC, "scale")))
    lossy = grown_with_losses(job.source)
    usual = choose(unset, job.trainer.model, lossy=lossy, steps=config.course(job.steps), per_epoch=per_epoch)
    # A rate that was already at the default, or lower, was still too high: a third of it.
    rate = usual["lr"].value if config.lr > usual["lr"].value else config.lr / 3
    yield ["--lr", shown(float(f"{rate:.1g}"))], shown(config.lr)
    warmup = usual["warmup_steps"].value if "warmup_steps" in usual else 0
    if config.warmup(per_epoch) < warmup:
        yield ["--warmup-steps", str(warmup)], str(config.warmup(per_epoch))
    if config.weight_decay > usual["weight_decay"].value:
        yield ["--weight-decay", shown(usual["weight_decay"].value)], shown(config.weight_decay)
    if "clip_grad" in usual and not config.clip_grad:
        yield ["--clip-grad", f"{usual['clip_grad'].value:g}"], "none"
    if "train_crop_mode" in usual and usual["train_crop_mode"].value != config.train_crop_mode:
        scale = [] if config.scale is None else ["--scale", "0.8", "1"]
        yield ["--train-crop-mode", usual["train_crop_mode"].value, *scale], str(config.train_crop_mode)
    # BatchNorm's running statistics become those of jittered images, and no longer fit the images of evaluation.
    batch_normed = network_of(job.trainer.model) == "BatchNorm network"
    if batch_normed and config.color_jitter and config.aa is None and not config.no_aug:
        yield ["--set", "color_jitter=0"], f"{config.color_jitter:g}"
    for name in ("mixup", "cutmix", "reprob"):
        if getattr(config, name):
            yield [f"--{name}", "0"], f"{getattr(config, name):g}"
    if job.epochs < _SHORT:
        yield ["--epochs", str(_SHORT)], str(job.epochs)
