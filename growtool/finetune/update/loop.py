"""The training loop's inside: one update, and what is told about many of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from growtool.finetune.data.seeding import derive_seed, seed_generators
from growtool.finetune.parallel.device import mixed_precision
from growtool.finetune.parallel.distributed import World, average_statistics, without_exchange
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.update.new_positions import NewWarmup
from growtool.finetune.update.objective import Objective
from growtool.finetune.update.trainable import FrozenSlices, Selection

_SKIPS_IN_A_ROW = 20  # more of them are no accident


class Diverged(Exception):
    """A loss or a weight is not finite any more.

    Attributes:
        skippable: whether that was a training loss, so that leaving the update out would have kept the weights finite.
    """

    def __init__(self, text: str, *, skippable: bool = False) -> None:
        super().__init__(text)
        self.skippable = skippable


@dataclass(slots=True)
class Trainer:
    """Everything an update touches.

    Attributes:
        model: the weights that train.
        forward: the model as it is called: compiled, replicated over processes, or itself.
        predict: the weights that count as evaluation calls them: compiled, or the module itself.
        objective: what is minimised.
        optimizer: over the selected parameters.
        set_rate: for the update after so many, None where the rate stays.
        scaler: of gradients, for float16; else None.
        ema: timm's weight average, else None.
        mix: mixup and cutmix, (images, class numbers) to (images, class weights); None without.
        erase: random erasing of a batch, None without.
        selection: what trains.
        held: guards the old elements of tensors that train in part.
        new_warmup: scales the first updates of what growth made.
        device: where all of it lives.
        world: the processes that share the work.
        autocast: the type for mixed precision, None without.
        memory_format: how images and convolutions are laid out.
        seed: of the run.
        accumulate: parts in which the images of an update pass through the model.
        clip: applied to the gradients before the step, None without.
        skips: whether an update that is not finite is left out, rather than the end of the run.
        step: updates done, skipped ones included.
        lr: learning rate of the latest update.
        skipped: updates left out.
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
    held: FrozenSlices
    new_warmup: NewWarmup
    device: torch.device
    world: World
    autocast: str | None
    memory_format: torch.memory_format
    seed: int
    accumulate: int = 1
    clip: Callable[[], object] | None = None
    skips: bool = False
    step: int = 0
    lr: float = 0.0
    skipped: int = 0
    _in_a_row: int = field(default=0)

    def update(self, images: Tensor, targets: Tensor) -> Tensor | None:
        """One update from this process's images [B, C, H, W] and class numbers [B].

        Returns:
            Its loss, still on the device; None where the update was skipped.

        Raises:
            Diverged: too many updates in a row were skipped.
        """
        # Ranks differ in their dropout; the first one draws what a single process draws.
        place = ("update", self.step) if self.world.is_main else ("update", self.step, self.world.rank)
        seed_generators(derive_seed(self.seed, *place), self.device)
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        if self.erase is not None:
            images = self.erase(images)
        images = images.contiguous(memory_format=self.memory_format)
        statistics = _statistics(self.model) if self.skips else {}
        self.optimizer.zero_grad()
        loss = self.backward(images, targets)
        self.held.mask_gradients()
        done = not self.skips or self._is_finite(loss)
        if done:
            with self.new_warmup.scaling(self.step):
                self._step()
        else:
            for buffer, before in statistics.items():
                buffer.copy_(before)
        self.held.put_back()
        self._count(done)
        return loss if done else None

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Gradients of the mean loss over all images of the update, part by part; returns that loss."""
        second_order = bool(getattr(self.optimizer, "is_second_order", False))
        parts = list(zip(images.chunk(self.accumulate), targets.chunk(self.accumulate), strict=True))
        total: Tensor | None = None
        for number, (part, labels) in enumerate(parts, start=1):
            with without_exchange(self.forward) if number < len(parts) else nullcontext():
                with mixed_precision(self.device, self.autocast):
                    logits = self.forward(part)
                    loss = self.objective(logits, labels, part, self.step)
                loss = loss * (len(part) / len(images)) if len(parts) > 1 else loss
                scaled = self.scaler.scale(loss) if self.scaler is not None else loss
                scaled.backward(create_graph=second_order)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _step(self) -> None:
        if self.scaler is not None:
            if self.clip is not None:
                self.scaler.unscale_(self.optimizer)
                self.clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        if self.clip is not None:
            self.clip()
        self.optimizer.step()

    def _is_finite(self, loss: Tensor) -> bool:
        """Whether loss and gradients are finite in every process; a float16 scaler looks after its gradients itself."""
        finite = torch.isfinite(loss)
        if self.scaler is None:
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            finite = finite & torch.isfinite(torch.stack([norm.sum() for norm in torch._foreach_norm(gradients)]).sum())
        return not self.world.any(not bool(finite))

    def _count(self, done: bool) -> None:
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.step += 1
        self._in_a_row = 0 if done else self._in_a_row + 1
        self.skipped += not done
        if self._in_a_row > _SKIPS_IN_A_ROW:
            raise Diverged(
                f"step {self.step}: {self._in_a_row} updates in a row were not finite, expected few to be so"
            )
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        if self.set_rate is not None:
            self.set_rate(self.step)

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def settle(self) -> None:
        """Make the processes agree on running statistics, before anyone evaluates or saves them."""
        for model in (self.model, self.evaluated):
            average_statistics(model, self.world)


@dataclass(slots=True)
class Meter:
    """The updates since the last record, and the sum over the epoch.

    Losses are read from the device once per record, so that a GPU is not made to wait at every update.
    """

    losses: list[Tensor] = field(default_factory=list)
    shared: int = 0  # of them, the first ones that are means over all processes already
    images: int = 0
    since: float = field(default_factory=time.perf_counter)
    epoch_sum: float = 0.0
    epoch_count: int = 0

    def add(self, loss: Tensor | None, images: int) -> None:
        """Take in an update and the number of its images."""
        if loss is not None:
            self.losses.append(loss)
        self.images += images

    def restart(self, course: RunProgress | None, device: torch.device) -> None:
        """An epoch begins, or goes on where `course` says."""
        pending = course.pending if course else []
        self.losses = list(torch.tensor(pending, dtype=torch.float64, device=device).unbind())
        self.shared = len(pending)
        self.images, self.since = 0, time.perf_counter()
        self.epoch_sum, self.epoch_count = (course.epoch_sum, course.epoch_count) if course else (0.0, 0)

    def pending(self, trainer: Trainer) -> list[float]:
        """The losses since the last record, over all processes.

        Raises:
            Diverged: one is not finite.
        """
        if not self.losses:
            return []
        own = torch.stack([loss.double() for loss in self.losses])
        own[self.shared :] = trainer.world.total(own[self.shared :]) / trainer.world.size
        values: list[float] = own.tolist()
        for step, value in enumerate(values, start=trainer.step - len(values) + 1):
            if not math.isfinite(value):
                text = f"step {step}: found a training loss of {value}, expected a finite number"
                raise Diverged(text, skippable=True)
        return values

    def flush(self, trainer: Trainer) -> tuple[float | None, float]:
        """Mean loss of the updates since the last record, and images per second; both begin anew."""
        values = self.pending(trainer)
        speed = self.images / (time.perf_counter() - self.since)
        self.epoch_sum += math.fsum(values)
        self.epoch_count += len(values)
        self.losses, self.shared, self.images, self.since = [], 0, 0, time.perf_counter()
        return (math.fsum(values) / len(values) if values else None), speed


def _statistics(model: nn.Module) -> dict[Tensor, Tensor]:
    """Copies of the buffers, which a forward pass over bad numbers spoils."""
    return {buffer: buffer.clone() for buffer in model.buffers()}
