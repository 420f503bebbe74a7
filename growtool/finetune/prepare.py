"""From a configuration to everything a run needs; what is wrong with it comes to light here, before any output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from growtool.calibration import tracking_norms
from growtool.checkpoint import build, input_size, open_checkpoint
from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.assemble import as_called, assemble, open_teacher
from growtool.finetune.checks import find_problems
from growtool.finetune.device import resolve_device
from growtool.finetune.distributed import World
from growtool.finetune.evaluate import evaluate
from growtool.finetune.journal import require_installed
from growtool.finetune.loaders import ImageBatches, ImageFormat, StreamBatches, eval_batches, train_batches
from growtool.finetune.loop import Trainer
from growtool.finetune.model import load_model, replace_head
from growtool.finetune.optimizer import class_name, unknown_optimizer, unused_momentum
from growtool.finetune.optimizer_state import adopt, read_state
from growtool.finetune.remarks import remarks
from growtool.finetune.sources import open_splits, require_source
from growtool.finetune.state import RunFolder
from growtool.finetune.template_form import refuse_what_templates_cannot
from growtool.finetune.trainable import Selection, select
from growtool.images import require_readable
from growtool.report.macs import count_macs, macs_of, training_macs

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import Checkpoint, ModelSpec
    from growtool.finetune.config import RunConfig
    from growtool.finetune.records import Evaluation
    from growtool.images import Split


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
        macs: multiply-accumulates of training on one image: forward, backward as two more, and the teacher's forward.
        release: what trains once `freeze_epochs` are over; None where nothing changes.
        carried: parameters whose optimizer state was taken over from beside the checkpoint.
        remarks: what its user should know of it, a sentence each.
    """

    config: RunConfig
    source: Checkpoint
    spec: ModelSpec
    trainer: Trainer
    train: ImageBatches | StreamBatches
    eval: ImageBatches
    steps: int
    epochs: int
    macs: int
    release: Selection | None
    carried: int
    remarks: tuple[str, ...]

    def evaluate(self) -> Evaluation:
        """The weights that count, on the validation images."""
        self.trainer.settle()
        return evaluate(
            self.trainer.evaluated,
            self.eval,
            device=self.trainer.device,
            autocast=self.trainer.autocast,
            channels_last=self.config.channels_last,
            world=self.trainer.world,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Put the model in the mode it trains in, and let everything train once the frozen epochs are over."""
        trainer = self.trainer
        if self.release is not None and epoch > self.config.freeze_epochs and trainer.selection is not self.release:
            trainer.selection = self.release
            trainer.held = self.release.held(trainer.model)
            self.release.freeze_others(trainer.model)
            trainer.forward = as_called(self.config, trainer.model, trainer.world, trainer.device)
        trainer.selection.train_mode(trainer.model)


def require_possible(config: RunConfig, folder: RunFolder, world: World) -> torch.device:
    """Look at every option that needs no checkpoint and no image, and raise once for all of them.

    Returns:
        The device to run on.

    Raises:
        PlanError: one problem for each option that is wrong.
    """
    found = unknown_optimizer(config.opt) or unused_momentum(config), _unknown_backend(config)
    problems = [*find_problems(config), *filter(None, found)]
    if config.batch_size % (world.size * config.grad_accum_steps):
        problems.append(
            f"--batch-size: found {config.batch_size}, expected a multiple of {world.size} processes times "
            f"{config.grad_accum_steps} --grad-accum-steps, as they share the images of an update"
        )
    if world.size == 1:
        problems.extend(
            f"{flag}: found one process, expected several; start them with torchrun --nproc-per-node N -m growtool, or "
            "drop the option"
            for flag, given in (("--engine fsdp", config.engine == "fsdp"), ("--sync-bn", config.sync_bn))
            if given
        )
    device = torch.device("cpu")
    checks: list[Callable[[], object]] = [
        partial(require_source, config, training=True),
        partial(require_source, config, training=False),
        partial(require_installed, config.log),
    ]
    if world.is_main and config.resume is None:
        checks.insert(0, partial(folder.require_free, config.checkpoint, force=config.force))
    try:
        device = resolve_device(config.device, world.local_rank if world.size > 1 else None)
    except GrowtoolError as error:
        problems.extend(error.problems)
    if config.sync_bn and device.type != "cuda":
        problems.append("--sync-bn: torch synchronises BatchNorm on CUDA devices only; drop it")
    for check in checks:
        try:
            check()
        except GrowtoolError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise PlanError(problems)
    return device


def prepare(config: RunConfig, device: torch.device, world: World | None = None) -> Job:
    """Open the checkpoint and the images and set up training; nothing is written.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PlanError: data, classes or options do not fit it.
    """
    world = world or World()
    source = open_checkpoint(config.checkpoint)
    refuse_what_templates_cannot(config, source)
    model = load_model(source, **({} if config.drop_path is None else {"drop_path_rate": config.drop_path}))
    spec, fresh = source.spec, frozenset[str]()
    if config.num_classes is not None:
        fresh = replace_head(model, config.num_classes, config.seed)
        spec = spec.with_classes(config.num_classes)
    format = ImageFormat.of(model)
    train, held_out, classes = open_splits(config, spec, model, source.name)
    for split in (train, held_out):
        require_readable(split)
    _require_norms(config, source, model)
    selection = select(config.train, source, model)
    batches = train_batches(train, format, config, world, device)
    plain = model if source.form is None else build(source.spec)  # making the weights is no work of an image
    macs = training_macs(count_macs(plain, format.input_size).total, images=1) + teacher_macs(config)
    steps, warmup = _budget(config, train, len(batches), macs)
    teacher = open_teacher(config, model, device, steps=steps)
    trainer = assemble(config, source, model, selection, teacher, batches, device, world, steps=steps, warmup=warmup)
    carried = _carry(config, source, trainer, fresh) if config.carry_optimizer else 0
    return Job(
        config=config,
        source=source,
        spec=_named(spec, classes),
        trainer=trainer,
        train=batches,
        eval=eval_batches(
            held_out, format, batch_size=config.images_at_once, workers=config.workers, device=device, world=world
        ),
        steps=steps,
        epochs=math.ceil(steps / len(batches)),
        macs=macs,
        release=Selection(frozenset(model.state_dict())) if config.freeze_epochs else None,
        carried=carried,
        remarks=tuple(remarks(config, trainer, carried)),
    )


def foresee(config: RunConfig, source: Checkpoint, world: World) -> ModelSpec:
    """What the result of a run will be saved as, found without a weight or an image being read.

    Args:
        config: of the run; its checkpoint need not be there yet.
        source: what will be there.
        world: the processes that will share the work.

    Raises:
        PlanError: options, data or classes do not fit the checkpoint; every option that is wrong on its own at once.
    """
    require_possible(config, RunFolder(config.output), world)
    refuse_what_templates_cannot(config, source)
    spec = source.spec if config.num_classes is None else source.spec.with_classes(config.num_classes)
    rates = {} if config.drop_path is None else {"drop_path_rate": config.drop_path}
    model = build(spec.with_args(**rates), where=source.name)
    train, _, classes = open_splits(config, spec, model, source.name)
    _require_norms(config, source, model)
    if source.form is None and config.train != "new":
        select(config.train, source, model)
    macs = training_macs(count_macs(model, input_size(model)).total, images=1)
    _budget(config, train, len(train) // config.batch_size, macs)
    return _named(spec, classes)


def _named(spec: ModelSpec, classes: tuple[str, ...]) -> ModelSpec:
    """With the names of the classes, where it has none."""
    if spec.label_names is not None or not classes:
        return spec
    return replace(spec, extra={**spec.extra, "label_names": list(classes)})


def _unknown_backend(config: RunConfig) -> str | None:
    if config.torchcompile is None or config.torchcompile in torch.compiler.list_backends(exclude_tags=()):
        return None
    return f"--torchcompile: found {config.torchcompile!r}, expected a backend of torch, usually inductor"


def _require_norms(config: RunConfig, source: Checkpoint, model: nn.Module) -> None:
    """Raise where an option is about BatchNorm and there is none."""
    given = {f"--recalibrate {config.recalibrate}": config.recalibrate, "--sync-bn": config.sync_bn}
    if any(given.values()) and not tracking_norms(model):
        raise PlanError(
            [
                f"{flag}: found no BatchNorm with running statistics in {source.name}; drop the option"
                for flag, asked in given.items()
                if asked
            ]
        )


def _budget(config: RunConfig, train: Split, per_epoch: int, macs: int) -> tuple[int, int]:
    """Updates of the run and of its warm-up."""
    if per_epoch == 0:
        raise PlanError(
            f"--batch-size: found {config.batch_size}, expected at most the {len(train)} images of {train.root}; "
            "lower it or add images"
        )
    steps = config.budget(per_epoch, macs * config.batch_size)
    if steps == 0:
        raise PlanError(
            f"--set macs={config.macs:g}: found less than one update, which takes {macs * config.batch_size:.3g} MACs; "
            "raise it or lower --batch-size"
        )
    warmup, epochs = config.warmup(per_epoch), math.ceil(steps / per_epoch)
    problems = []
    if warmup >= steps:
        problems.append(
            f"--warmup-epochs, --warmup-steps: found a warm-up of {warmup} updates, expected fewer than the {steps} of "
            f"the whole run ({per_epoch} an epoch); shorten it or train longer"
        )
    elif config.warmup_epochs and not warmup:
        problems.append(
            f"--warmup-epochs: found {config.warmup_epochs:g}, which is less than half an update of the {per_epoch} "
            "an epoch has; drop it or lengthen it"
        )
    if config.freeze_epochs >= epochs:
        problems.append(
            f"--freeze-epochs: found {config.freeze_epochs}, expected fewer than the {epochs} epochs of the run, after "
            "which nothing would be released; lower it, drop it or train longer"
        )
    seen = per_epoch * config.batch_size
    if config.recalibrate > seen:
        problems.append(
            f"--recalibrate: found {config.recalibrate}, expected at most the {seen} images of an epoch; lower it"
        )
    if problems:
        raise PlanError(problems)
    return steps, warmup


def teacher_macs(config: RunConfig) -> int:
    """Multiply-accumulates of the teacher's forward pass on an image; 0 without one."""
    if config.kd_teacher is None:
        return 0
    return macs_of(open_checkpoint(config.kd_teacher).spec, where=str(config.kd_teacher))


def _carry(config: RunConfig, source: Checkpoint, trainer: Trainer, fresh: frozenset[str]) -> int:
    """Start from the state beside the checkpoint, but for the `fresh` parameters; how many it is taken over for."""
    state = read_state(source.path.parent)
    shapes = {name: info.shape for name, info in source.stored.items() if name not in fresh}
    carried = adopt(trainer.optimizer, trainer.model, state, shapes)
    if not carried:
        raise PlanError(
            f"--carry-optimizer: the state beside {source.name} "
            + (
                "fits none of the tensors that train; drop the option"
                if state.algorithm == class_name(config.opt)
                else f"is of another optimizer than --opt {config.opt}, expected the same; use that one, or drop the "
                "option"
            )
        )
    return carried
