"""The trainer of a run, assembled from its model, loss, optimizer and all else that an update needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import create_classification_loss
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from growtool.calibration import recalibrate
from growtool.checkpoint import Checkpoint, open_checkpoint
from growtool.finetune.config import RunConfig
from growtool.finetune.data.loaders import ImageBatches, StreamBatches
from growtool.finetune.parallel.device import forget_peak, mixed_precision
from growtool.finetune.parallel.distributed import World, average_statistics, replicate, shard, synchronised
from growtool.finetune.update.adapters import add_adapters
from growtool.finetune.update.growth_report import read_factors
from growtool.finetune.update.loop import Trainer
from growtool.finetune.update.model import compiled, count_classes, layout, load_model, place
from growtool.finetune.update.new_positions import NewWarmup
from growtool.finetune.update.objective import Objective, Teacher, annealed, require_same_task
from growtool.finetune.update.optimizer import create_optimizer, create_schedule, scale_rates
from growtool.finetune.update.trainable import Selection


def open_teacher(
    config: RunConfig, student: nn.Module, classes: Sequence[str], device: torch.device, *, steps: int
) -> Teacher | None:
    """Load the teacher that `--kd-teacher` names; return None without one.

    Args:
        classes: names of the student's classes; empty if they are not known.
        steps: updates of the whole run, over which the teacher's part in the loss is annealed.

    Raises:
        CheckpointError: the teacher cannot be opened.
        PlanError: the teacher is for other images or classes than the student.
    """
    if config.kd_teacher is None:
        return None
    checkpoint = open_checkpoint(config.kd_teacher)
    model = load_model(checkpoint)
    require_same_task(student, model, checkpoint.name, classes=classes, taught=checkpoint.spec.label_names)
    model = place(model, device, channels_last=config.channels_last).requires_grad_(False)
    weight = annealed(config.teaching, config.kd_anneal, steps)
    return Teacher(compiled(model, config.torchcompile), weight, config.kd_temperature)


def assemble(
    config: RunConfig,
    source: Checkpoint,
    model: nn.Module,
    selection: Selection,
    new: Selection,
    teacher: Teacher | None,
    batches: ImageBatches | StreamBatches,
    device: torch.device,
    world: World,
    *,
    steps: int,
) -> Trainer:
    """Return a trainer that is ready for its first update.

    Args:
        config: the options of the run, all of them set.
        source: the checkpoint that `model` was loaded from; the growth report beside it has the `--lr-factors`.
        model: on the CPU, with its weights.
        new: what growth added, for `--new-warmup`.
        teacher: for distillation; None without one.
        batches: batches to train on; the first images also serve to recalibrate BatchNorm and to start adapters.
        steps: updates of the whole run.

    Raises:
        PlanError: timm cannot create the optimizer or the schedule, or no layer takes adapters.
    """
    model, selection = _prepared(config, model, selection, batches, device, world)
    criterion = create_classification_loss("ce", smoothing=config.smoothing, soft_targets=config.mixes).to(device)
    ema = _averaged(config, model)
    if world.size > 1 and config.engine == "fsdp":
        for module in [model] if ema is None else [model, ema.module]:
            # Adapters compute W + s B A in float32. Gathered in bfloat16, its terms would give another weight than the
            # one that merging writes.
            shard(module, world, device, None if config.lora_rank else config.autocast)
        forget_peak(device)  # of memory, which included the unsharded model
    guard = selection.guard(model)  # after sharding, since it keeps masks and values for the tensors as they are now
    optimizer = _optimizer(config, source, model)
    selection.freeze_others(model)
    mix = None
    if config.mixes:
        mix = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=count_classes(model))
    clip = None
    if config.clip_grad:
        clip = partial(dispatch_clip_grad, list(model.parameters()), config.clip_grad, mode=config.clip_mode)
    return Trainer(
        model=model,
        forward=as_called(config, model, world, device),
        predict=compiled(model if ema is None else ema.module, config.torchcompile),
        objective=Objective(criterion, teacher),
        optimizer=optimizer,
        set_rate=create_schedule(config, optimizer, steps=steps, per_epoch=len(batches)),
        scaler=torch.amp.GradScaler(device.type) if config.autocast == "float16" else None,
        ema=ema,
        mix=mix,
        erase=RandomErasing(config.reprob, mode="pixel", device=device) if config.reprob else None,
        selection=selection,
        guard=guard,
        new_warmup=NewWarmup(model, new, config.warmup_of_new(steps, len(batches))),
        clip=clip,
        config=config,
        device=device,
        world=world,
    )


def _prepared(
    config: RunConfig,
    model: nn.Module,
    selection: Selection,
    batches: ImageBatches | StreamBatches,
    device: torch.device,
    world: World,
) -> tuple[nn.Module, Selection]:
    """Move the model to its device, recalibrate it and add adapters, as asked for; return it, and what of it trains.

    Raises:
        PlanError: no layer takes adapters.
    """
    # FSDP2 shards contiguous parameters along their first dimension, so that only images are channels-last there.
    model = place(model, device, channels_last=config.channels_last and config.engine != "fsdp")
    first_images = partial(_first_images, batches, layout(config.channels_last), config.grad_accum_steps)
    if config.recalibrate:
        with mixed_precision(device, config.autocast):
            recalibrate(model, (images for images, _ in first_images(config.recalibrate)))
        average_statistics(model, world)
    if config.lora_rank:
        criterion = create_classification_loss("ce", smoothing=config.smoothing)  # without mixup: targets are numbers
        selection = add_adapters(model, config, first_images(config.batch_size), criterion, world)
    selection.freeze_others(model)
    if config.sync_bn and world.size > 1:
        model = synchronised(model)
    return model, selection


def _averaged(config: RunConfig, model: nn.Module) -> ModelEmaV3 | None:
    """Return timm's running average of the weights, or None; it copies the model before sharding or DDP wraps it."""
    if config.ema_decay is None:
        return None
    # torch's foreach kernels do not take the sharded parameters and the whole buffers of FSDP2 together.
    foreach = config.engine != "fsdp"
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=True, foreach=foreach)


def _optimizer(config: RunConfig, source: Checkpoint, model: nn.Module) -> torch.optim.Optimizer:
    """Create the optimizer over all parameters that will ever train, so that its groups stay the same.

    Raises:
        PlanError: timm cannot create it.
    """
    if config.freeze_epochs:
        model.requires_grad_(True)  # timm leaves out parameters without gradients; `assemble` freezes them again
    optimizer = create_optimizer(config, model)
    if config.lr_factors:
        factors = read_factors(source.path.parent, optimizer)
        scale_rates(optimizer, model, factors, scheduled=config.sched != "none")
    return optimizer


def as_called(config: RunConfig, model: nn.Module, world: World, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the model as training calls it: in DDP if several processes hold all of it, and compiled if asked for."""
    replicated = replicate(model, device) if world.size > 1 and config.engine == "ddp" else model
    return compiled(replicated, config.torchcompile)


def _first_images(
    batches: ImageBatches | StreamBatches, memory_format: torch.memory_format, parts: int, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of batches with at least `count` images in all.

    They are the first of epoch 0, which has an order and augmentation of its own: training begins with epoch 1.
    """
    for images, targets in islice(batches.epoch(0), -(-count // batches.batch_size)):
        for part, labels in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            yield part.contiguous(memory_format=memory_format), labels
