"""The training loop: one update, and one epoch of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growtool.finetune.device import mixed_precision
from growtool.finetune.records import StepRecord
from growtool.finetune.seeding import derive_seed, seed_generators
from growtool.finetune.trainable import Selection


class Diverged(Exception):
    """A loss or a weight is not finite any more; `run` says what to do about it."""


@dataclass(slots=True)
class Trainer:
    """Everything an update touches.

    Attributes:
        model: the weights that train; its state dict is what is saved.
        forward: the model as it is called, compiled where that was asked for.
        criterion: loss of (logits [B, classes], targets [B] or [B, classes]).
        optimizer: over the selected parameters.
        schedule: timm's scheduler counting updates, None where the rate stays.
        scaler: timm's gradient scaler for float16, else None.
        ema: timm's weight average, else None.
        mix: mixup and cutmix, (images, class numbers) to (images, class weights); None without.
        erase: random erasing of a batch, None without.
        selection: what trains.
        device: where all of it lives.
        autocast: the type for mixed precision, None without.
        memory_format: how images and convolutions are laid out.
        seed: of the run.
        step: updates done.
        lr: learning rate of the latest update.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: Any
    ema: Any
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    erase: Callable[[Tensor], Tensor] | None
    selection: Selection
    device: torch.device
    autocast: str | None
    memory_format: torch.memory_format
    seed: int
    step: int = 0
    lr: float = 0.0

    def update(self, images: Tensor, targets: Tensor) -> Tensor:
        """One update from images [B, C, H, W] and class numbers [B]; returns its loss, still on the device."""
        seed_generators(derive_seed(self.seed, "update", self.step), self.device)
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        if self.erase is not None:
            images = self.erase(images)
        images = images.contiguous(memory_format=self.memory_format)
        with mixed_precision(self.device, self.autocast):
            logits = self.forward(images)
        loss: Tensor = self.criterion(logits.float(), targets)
        self.optimizer.zero_grad()
        second_order = bool(getattr(self.optimizer, "is_second_order", False))
        if self.scaler is not None:
            self.scaler(loss, self.optimizer, create_graph=second_order)
        else:
            loss.backward(create_graph=second_order)
            self.optimizer.step()
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        if self.schedule is not None:
            self.schedule.step_update(self.step)
        return loss.detach()

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model


def train_epoch(
    trainer: Trainer,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    epoch: int,
    stop: int,
    interval: int,
    advanced: Callable[[int], None],
) -> Iterator[StepRecord]:
    """Train on `batches`, and tell every `interval` updates and at the end.

    Losses are read from the device once per record, so that a GPU is not made to wait at every update.

    Args:
        trainer: does the updates.
        batches: the batches of the epoch.
        epoch: its number, from 1.
        stop: the update after which the run is over.
        interval: updates between records.
        advanced: called with the number of updates done, after each.

    Raises:
        Diverged: a loss is not finite.
    """
    trainer.selection.train_mode(trainer.model)
    losses: list[Tensor] = []
    images_seen, since = 0, time.perf_counter()
    for images, targets in batches:
        losses.append(trainer.update(images, targets))
        images_seen += len(targets)
        advanced(trainer.step)
        if trainer.step % interval == 0 or trainer.step == stop:
            yield _record(trainer, losses, epoch, images_seen, since)
            losses, images_seen, since = [], 0, time.perf_counter()
        if trainer.step == stop:
            break
    if losses:
        yield _record(trainer, losses, epoch, images_seen, since)


def _record(trainer: Trainer, losses: list[Tensor], epoch: int, images_seen: int, since: float) -> StepRecord:
    values: list[float] = torch.stack(losses).tolist()
    for step, value in enumerate(values, start=trainer.step - len(values) + 1):
        if not math.isfinite(value):
            raise Diverged(f"step {step}: found a training loss of {value}, expected a finite number")
    mean = math.fsum(values) / len(values)
    return StepRecord(trainer.step, epoch, mean, trainer.lr, images_seen / (time.perf_counter() - since))
