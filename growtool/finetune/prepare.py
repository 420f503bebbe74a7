"""From a configuration to everything a run needs; what is wrong with it comes to light here, before any output."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from growtool.checkpoint import open_checkpoint
from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.data import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    Split,
    class_names,
    find_split,
    number_classes,
    open_split,
    require_readable,
)
from growtool.finetune.device import resolve_device
from growtool.finetune.evaluate import evaluate
from growtool.finetune.loaders import ImageFormat, TrainBatches, eval_batches
from growtool.finetune.loop import Trainer
from growtool.finetune.model import count_classes, layout, load_model, place
from growtool.finetune.state import RunFolder
from growtool.finetune.trainable import select

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from growtool.checkpoint import Checkpoint, ModelSpec
    from growtool.finetune.config import RunConfig
    from growtool.finetune.records import Evaluation
    from growtool.finetune.trainable import Selection


@dataclass(frozen=True, slots=True)
class Job:
    """A run that is ready to start.

    Attributes:
        source: the checkpoint it starts from.
        spec: what the results are saved as: the source's, with its classes' names.
        trainer: model, optimizer and the rest of an update.
        train: batches to train on.
        eval: batches to evaluate on.
        steps: updates in all.
        epochs: epochs in all, the last of them perhaps cut short by `steps`.
    """

    config: RunConfig
    source: Checkpoint
    spec: ModelSpec
    trainer: Trainer
    train: TrainBatches
    eval: Any
    steps: int
    epochs: int

    def evaluate(self) -> Evaluation:
        """The weights that count, on the validation images."""
        return evaluate(
            self.trainer.evaluated,
            self.eval,
            device=self.trainer.device,
            autocast=self.trainer.autocast,
            channels_last=self.config.channels_last,
        )


def require_possible(config: RunConfig, folder: RunFolder) -> torch.device:
    """Look at every option that needs no checkpoint and no image, and raise once for all of them.

    Returns:
        The device to run on.

    Raises:
        PlanError: one problem for each option that is wrong.
    """
    problems = [*config.problems(), *_unknown_names(config)]
    device = torch.device("cpu")
    checks: list[Callable[[], object]] = [
        lambda: folder.require_free(config.checkpoint, force=config.force),
        lambda: find_split(config.data, TRAIN_SPLITS),
        lambda: find_split(config.data, EVAL_SPLITS),
    ]
    try:
        device = resolve_device(config.device)
    except GrowtoolError as error:
        problems.extend(error.problems)
    for check in checks:
        try:
            check()
        except GrowtoolError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise PlanError(problems)
    return device


def prepare(config: RunConfig, device: torch.device) -> Job:
    """Open the checkpoint and the images and set up training; nothing is written.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PlanError: data, classes or options do not fit it.
    """
    source = open_checkpoint(config.checkpoint)
    model = load_model(source)
    format = ImageFormat.of(model)
    train, held_out = (
        open_split(find_split(config.data, names), channels=format.input_size[0])
        for names in (TRAIN_SPLITS, EVAL_SPLITS)
    )
    classes = class_names(
        train, num_classes=count_classes(model), label_names=source.spec.label_names, checkpoint=source.name
    )
    number_classes(train, classes)
    number_classes(held_out, classes)
    require_readable(train)
    require_readable(held_out)
    selection = select(config.train, source, model)
    batches = TrainBatches(train, format, config, device)
    steps = _budget(config, train, batches)
    spec = source.spec
    if spec.label_names is None:
        spec = replace(spec, extra={**spec.extra, "label_names": list(classes)})
    return Job(
        config=config,
        source=source,
        spec=spec,
        trainer=_trainer(config, model, selection, device, steps=steps, warmup=config.warmup(len(batches))),
        train=batches,
        eval=eval_batches(held_out, format, batch_size=config.batch_size, workers=config.workers, device=device),
        steps=steps,
        epochs=math.ceil(steps / len(batches)),
    )


def _unknown_names(config: RunConfig) -> list[str]:
    from timm.optim import list_optimizers

    problems = []
    known = list_optimizers()
    if config.opt.lower().removeprefix("lookahead_") not in known:
        near = difflib.get_close_matches(config.opt.lower(), known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `timm.optim.list_optimizers()`"
        problems.append(f"--opt: found {config.opt!r}, expected the name of an optimizer of timm; {hint}")
    backends = torch.compiler.list_backends(exclude_tags=())
    if config.torchcompile is not None and config.torchcompile not in backends:
        problems.append(f"--torchcompile: found {config.torchcompile!r}, expected a backend of torch, usually inductor")
    return problems


def _budget(config: RunConfig, train: Split, batches: TrainBatches) -> int:
    if len(batches) == 0:
        raise PlanError(
            f"--batch-size: found {config.batch_size}, expected at most the {len(train)} images of {train.root}; "
            "lower it or add images"
        )
    steps = config.budget(len(batches))
    warmup = config.warmup(len(batches))
    if warmup >= steps:
        raise PlanError(
            f"--warmup-epochs, --warmup-steps: found a warm-up of {warmup} updates, expected fewer than the {steps} of "
            f"the whole run ({len(batches)} an epoch); shorten it or train longer"
        )
    return steps


def _trainer(
    config: RunConfig, model: nn.Module, selection: Selection, device: torch.device, *, steps: int, warmup: int
) -> Trainer:
    from timm.data import Mixup
    from timm.data.random_erasing import RandomErasing
    from timm.loss import create_classification_loss
    from timm.utils import ModelEmaV3, NativeScaler

    model = place(model, device, channels_last=config.channels_last)
    selection.freeze_others(model)
    optimizer = _optimizer(config, model)
    mix = None
    if config.mixes:
        mix = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=count_classes(model))
    # Its copy of the weights is taken before compiling, which would put a wrapper around them.
    ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay is not None else None
    return Trainer(
        model=model,
        forward=torch.compile(model, backend=config.torchcompile) if config.torchcompile else model,
        criterion=create_classification_loss("ce", smoothing=config.smoothing, soft_targets=config.mixes).to(device),
        optimizer=optimizer,
        schedule=_schedule(config, optimizer, steps=steps, warmup=warmup),
        scaler=NativeScaler(device=device.type) if config.autocast == "float16" else None,
        ema=ema,
        mix=mix,
        erase=RandomErasing(config.reprob, mode="pixel", device=device) if config.reprob else None,
        selection=selection,
        device=device,
        autocast=config.autocast,
        memory_format=layout(config.channels_last),
        seed=config.seed,
    )


def _optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """timm's, which leaves biases, norms and what the model names itself without weight decay."""
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(  # type: ignore[no-any-return]
            model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay
        )
    except (AssertionError, ImportError, TypeError, ValueError, RuntimeError) as error:
        raise PlanError(
            f"--opt: timm cannot create {config.opt!r} here ({type(error).__name__}: {error}); "
            "install what it needs or choose another, e.g. adamw or sgd"
        ) from error


def _schedule(config: RunConfig, optimizer: torch.optim.Optimizer, *, steps: int, warmup: int) -> Any:
    """timm's scheduler with one update as its unit of time."""
    from timm.scheduler import create_scheduler_v2

    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=steps,
        warmup_epochs=warmup,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return scheduler
