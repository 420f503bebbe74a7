"""From a configuration to everything a run needs; what is wrong with it comes to light here, before any output."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from growtool.calibration import require_several_values, tracking_norms
from growtool.checkpoint import build, input_size, open_checkpoint
from growtool.errors import PlanError
from growtool.finetune.assemble import assemble, open_teacher
from growtool.finetune.defaults import applied, choose, grown_with_losses
from growtool.finetune.distributed import World
from growtool.finetune.job import Job
from growtool.finetune.length import length_of
from growtool.finetune.loaders import eval_batches, train_batches
from growtool.finetune.loop import Trainer
from growtool.finetune.model import load_model, replace_head
from growtool.finetune.optimizer import class_name
from growtool.finetune.optimizer_state import adopt, read_state
from growtool.finetune.possible import require_possible
from growtool.finetune.remarks import remarks
from growtool.finetune.resume import as_it_began
from growtool.finetune.sources import open_splits
from growtool.finetune.state import RunFolder
from growtool.finetune.template_form import refuse_what_templates_cannot
from growtool.finetune.trainable import Selection, select
from growtool.images import ImageFormat, require_readable
from growtool.report.macs import count_macs, macs_of, training_macs

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import Checkpoint, ModelSpec
    from growtool.finetune.config import RunConfig


def prepare(config: RunConfig, device: torch.device, world: World | None = None) -> Job:
    """Open the checkpoint and the images and set up training; nothing is written.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PlanError: data, classes or options do not fit it.
    """
    world = world or World()
    config, earlier = as_it_began(config, RunFolder(config.output))
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
    _require_variance(config, source, model, selection, world)
    plain = model if source.form is None else build(source.spec)  # making the weights is no work of an image
    macs = training_macs(count_macs(plain, format.input_size).total, images=1) + teacher_macs(config)
    per_epoch = len(train) // config.batch_size
    steps = length_of(config, train, per_epoch, macs)
    choices = choose(config, model, lossy=grown_with_losses(source), steps=steps, per_epoch=per_epoch)
    config = applied(config, choices)
    warmup = config.warmup(per_epoch)
    batches = train_batches(train, format, config, world, device)
    teacher = open_teacher(config, model, classes, device, steps=steps)
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
        choices=earlier or choices,
        release=Selection(frozenset(model.state_dict())) if config.freeze_epochs else None,
        carried=carried,
        remarks=tuple(dict.fromkeys((*train.remarks, *held_out.remarks, *remarks(config, trainer, carried)))),
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
        _require_variance(config, source, model, select(config.train, source, model), world)
    macs = training_macs(count_macs(model, input_size(model)).total, images=1)
    length_of(config, train, len(train) // config.batch_size, macs)
    return _named(spec, classes)


def _named(spec: ModelSpec, classes: tuple[str, ...]) -> ModelSpec:
    """With the names of the classes, where it has none."""
    if spec.label_names is not None or not classes:
        return spec
    return replace(spec, extra={**spec.extra, "label_names": list(classes)})


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


def _require_variance(
    config: RunConfig, source: Checkpoint, model: nn.Module, selection: Selection, world: World
) -> None:
    """Raise where BatchNorm would be trained on a single value of each channel."""
    shares = world.size * config.grad_accum_steps
    everything = config.recalibrate or config.freeze_epochs  # all norms take statistics, at first or in the end
    if config.sync_bn and world.size > 1:
        return
    selection.train_mode(model)
    norms = {name for name, module in tracking_norms(model).items() if module.training or everything}
    model.eval()
    remedy = f"make --batch-size {2 * shares} or more" + (
        f", as {world.size} processes times {config.grad_accum_steps} --grad-accum-steps share it, or lower these"
        if shares > 1
        else ", or leave BatchNorm as it is with --train PATTERN"
    )
    plain = model if source.form is None else build(source.spec)
    try:
        require_several_values(plain, config.batch_size // shares, remedy, frozenset(norms))
    except PlanError as error:
        raise PlanError([f"--batch-size {config.batch_size}: {problem}" for problem in error.problems]) from None


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
