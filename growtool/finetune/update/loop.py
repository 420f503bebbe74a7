"""One update of the weights, and the losses of many updates until they are reported."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growtool.finetune.config import RunConfig
from growtool.finetune.data.seeding import derive_seed, seed_generators
from growtool.finetune.parallel.device import mixed_precision
from growtool.finetune.parallel.distributed import World, average_statistics, without_exchange
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.update.model import layout
from growtool.finetune.update.new_positions import NewWarmup
from growtool.finetune.update.objective import Objective
from growtool.finetune.update.trainable import FrozenSlices, Selection

_SKIPS_IN_A_ROW = 20  # updates; more of them are no accident, and the run ends


class Diverged(Exception):
    """Raised when a loss or a weight is not finite, or too many updates in a row were skipped.

    Attributes:
        skippable: whether a training loss was not finite, so that skipping its update would have kept the weights
            finite.
    """

    def __init__(self, text: str, *, skippable: bool = False) -> None:
        super().__init__(text)
        self.skippable = skippable


@dataclass(slots=True)
class Trainer:
    """The model, the loss, the optimizer and everything else that an update touches.

    Attributes:
        model: the module whose weights train.
        forward: the same model as updates call it: compiled, replicated over processes, or itself.
        predict: the model that is evaluated (see `evaluated`) as evaluation calls it: compiled, or itself.
        objective: the loss.
        optimizer: over all parameters that will ever train.
        set_rate: sets the learning rate of the next update, given the updates before it; None if the rate is fixed.
        scaler: of gradients, for float16; else None.
        ema: timm's weight average, or None.
        mix: mixup and cutmix, (images, class numbers) to (images, class weights), or None.
        erase: random erasing of a batch, or None.
        selection: the tensors that train.
        guard: restores the old elements of tensors that train in part.
        new_warmup: scales the first updates of new positions.
        clip: clips the gradients in place before the optimizer's step; None for no clipping.
        config: the options of the run.
        device: where all of it lives.
        world: the processes that share the work.
        step: updates done, skipped ones included.
        lr: learning rate of the latest update.
        skipped: number of updates skipped.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    predict: Callable[[Tensor], Tensor]
    objective: Objective
    optimizer: torch.optim.Optimizer
    set_rate: Callable[[int], None] | None
    scaler: torch.amp.GradScaler | None
    ema: Any
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    erase: Callable[[Tensor], Tensor] | None
    selection: Selection
    guard: FrozenSlices
    new_warmup: NewWarmup
    clip: Callable[[], object] | None
    config: RunConfig
    device: torch.device
    world: World
    step: int = 0
    lr: float = 0.0
    skipped: int = 0
    _skips_in_a_row: int = 0

    def update(self, images: Tensor, targets: Tensor) -> Tensor | None:
        """Do one update from this process's images [B, C, H, W] and class numbers [B].

        Returns:
            The loss, still on the device, or None if the update was skipped.

        Raises:
            Diverged: too many updates in a row were skipped.
        """
        # Ranks differ in their dropout; the first one draws what a single process draws.
        purpose = ("update", self.step) if self.world.is_main else ("update", self.step, self.world.rank)
        seed_generators(derive_seed(self.config.seed, *purpose), self.device)
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        if self.erase is not None:
            images = self.erase(images)
        images = images.contiguous(memory_format=layout(self.config.channels_last))
        # The forward pass itself writes running statistics, which a skipped update must not leave behind.
        skips = self.config.nonfinite == "skip"
        saved_buffers = {buffer: buffer.clone() for buffer in self.model.buffers()} if skips else {}
        self.optimizer.zero_grad()
        loss = self.backward(images, targets)
        self.guard.mask_gradients()  # before the gradients are checked, clipped and averaged into moments
        applied = not skips or self._is_finite(loss)
        if applied:
            with self.new_warmup.scaling(self.step):
                self._apply_gradients()
        else:
            for buffer, before in saved_buffers.items():
                buffer.copy_(before)
        self.guard.put_back()
        self._count(applied)
        return loss if applied else None

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradients of the mean loss over the update's images, part by part; return the loss, detached."""
        second_order = bool(getattr(self.optimizer, "is_second_order", False))  # timm's Adahessian
        count = self.config.grad_accum_steps
        parts = list(zip(images.chunk(count), targets.chunk(count), strict=True))
        total: Tensor | None = None
        for number, (part, labels) in enumerate(parts, start=1):
            with without_exchange(self.forward) if number < len(parts) else nullcontext():
                with mixed_precision(self.device, self.config.autocast):
                    logits = self.forward(part)
                    loss = self.objective(logits, labels, part, self.step)
                loss = loss * (len(part) / len(images)) if len(parts) > 1 else loss  # the sum over parts is the mean
                scaled = self.scaler.scale(loss) if self.scaler is not None else loss
                scaled.backward(create_graph=second_order)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _apply_gradients(self) -> None:
        if self.scaler is not None:
            if self.clip is not None:
                self.scaler.unscale_(self.optimizer)  # the limit holds for the gradients as they are
                self.clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        if self.clip is not None:
            self.clip()
        self.optimizer.step()

    def _is_finite(self, loss: Tensor) -> bool:
        """Return whether the loss and the gradients are finite in every process."""
        finite = torch.isfinite(loss)
        if self.scaler is None:  # a float16 scaler skips the step itself where gradients are not finite
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            finite = finite & torch.isfinite(torch.stack([norm.sum() for norm in torch._foreach_norm(gradients)]).sum())
        return not self.world.any(not bool(finite))

    def _count(self, applied: bool) -> None:
        """Count the update, applied or skipped, and set the learning rate of the next one."""
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.step += 1
        self._skips_in_a_row = 0 if applied else self._skips_in_a_row + 1
        self.skipped += not applied
        if self._skips_in_a_row > _SKIPS_IN_A_ROW:
            raise Diverged(
                f"step {self.step}: {self._skips_in_a_row} updates in a row were not finite, expected few to be so"
            )
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        if self.set_rate is not None:
            self.set_rate(self.step)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and saved: the weight average if there is one, else the model that trains."""
        return self.ema.module if self.ema is not None else self.model

    def settle(self) -> None:
        """Average running statistics over the processes, so that all of them evaluate and save the same model."""
        for model in (self.model, self.evaluated):
            average_statistics(model, self.world)


class Meter:
    """The losses and the speed of the updates since the last record.

    Losses are read from the device once per record, so that a GPU is not made to wait at every update.

    Args:
        course: the progress of the run; receives the sum of the epoch's losses up to the last record, and their number.

    Attributes:
        losses: of the updates since the last record that were not skipped, on the device.
        averaged: how many of them, from the first on, are means over all processes already: those that a resumed run
            had noted. The others are this process's own.
        images: that passed since the last record, over all processes.
        since: time of the last record, as `time.perf_counter` tells it.
    """

    def __init__(self, trainer: Trainer, course: RunProgress) -> None:
        self.trainer, self.course = trainer, course
        self.restart()

    def add(self, loss: Tensor | None, images: int) -> None:
        """Add an update's loss, None if it was skipped, and the number of its images."""
        if loss is not None:
            self.losses.append(loss)
        self.images += images

    def restart(self) -> None:
        """Begin an epoch, or continue one from the losses that the progress holds as pending."""
        pending = self.course.pending
        self.losses = list(torch.tensor(pending, dtype=torch.float64, device=self.trainer.device).unbind())
        self.averaged, self.images, self.since = len(pending), 0, time.perf_counter()

    def pending(self) -> list[float]:
        """Return the losses since the last record as means over all processes, every one of which must call this.

        Raises:
            Diverged: one is not finite.
        """
        if not self.losses:
            return []
        world, last = self.trainer.world, self.trainer.step
        means = torch.stack([loss.double() for loss in self.losses])
        means[self.averaged :] = world.total(means[self.averaged :]) / world.size
        values: list[float] = means.tolist()
        for step, value in enumerate(values, start=last - len(values) + 1):
            if not math.isfinite(value):
                text = f"step {step}: found a training loss of {value}, expected a finite number"
                raise Diverged(text, skippable=True)
        return values

    def flush(self) -> tuple[float | None, float]:
        """Return the mean loss since the last record, None without any, and the images per second; restart both."""
        values = self.pending()
        speed = self.images / (time.perf_counter() - self.since)
        self.course.epoch_sum += math.fsum(values)
        self.course.epoch_count += len(values)
        self.losses, self.averaged, self.images, self.since = [], 0, 0, time.perf_counter()
        return (math.fsum(values) / len(values) if values else None), speed
