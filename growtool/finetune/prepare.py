"""Preparation of a run: all that it needs is opened, checked and assembled, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from growtool.calibration import require_several_values, tracking_norms
from growtool.checkpoint import Checkpoint, ModelSpec, build, open_checkpoint
from growtool.errors import PlanError
from growtool.finetune.assemble import assemble, open_teacher
from growtool.finetune.config import RunConfig
from growtool.finetune.data.loaders import eval_batches, train_batches
from growtool.finetune.data.sources import open_splits
from growtool.finetune.job import Job
from growtool.finetune.optimizer_files import read_state
from growtool.finetune.optimizer_state import adopt
from growtool.finetune.options.course import length_of
from growtool.finetune.options.defaults import applied, choose
from growtool.finetune.parallel.distributed import World
from growtool.finetune.possible import require_possible
from growtool.finetune.state.folder import RunFolder
from growtool.finetune.state.resume import as_it_began
from growtool.finetune.update.adapters import LowRank
from growtool.finetune.update.growth_report import grown_with_losses
from growtool.finetune.update.loop import Trainer
from growtool.finetune.update.model import load_model, replace_head, spec_for
from growtool.finetune.update.new_positions import begun_anew
from growtool.finetune.update.optimizer import optimizer_class
from growtool.finetune.update.trainable import Selection, new_selection, select
from growtool.images import ImageFormat, require_readable
from growtool.report.macs import count_macs, macs_of, training_macs


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is known of a run before its checkpoint exists.

    Attributes:
        spec: model of the checkpoints that it will write.
        steps: updates of the whole run.
        per_epoch: updates of an epoch.
    """

    spec: ModelSpec
    steps: int
    per_epoch: int


def prepare(config: RunConfig, device: torch.device, world: World | None = None) -> Job:
    """Open the checkpoint and the images, and set up training. Nothing is written.

    Args:
        world: the processes that share the work; by default one.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        PlanError: data, classes or options do not fit the checkpoint.
    """
    world = world or World()
    config, earlier = as_it_began(config, RunFolder(config.output))
    source = open_checkpoint(config.checkpoint)
    model = load_model(source, **_model_args(config))
    spec, fresh = spec_for(source.spec, config.num_classes), frozenset[str]()
    if config.num_classes is not None:
        fresh = replace_head(model, config.num_classes, config.seed)
    format = ImageFormat.of(model)
    train, held_out, classes = open_splits(config, spec, model, source.name)
    for split in (train, held_out):
        require_readable(split)
    _require_norms(config, source, model)
    selection = select(config.train, source, model)
    _require_variance(config, source, model, selection, world)
    macs = training_macs(count_macs(source.spec, _dense(source, model)).total, inputs=1) + teacher_macs(config)
    per_epoch = len(train) // config.batch_size
    steps = length_of(config, train, per_epoch, macs)
    lossy, course = grown_with_losses(source), config.course(steps)
    choices = choose(config, model, lossy=lossy, steps=course, per_epoch=per_epoch)
    config = applied(config, choices)
    batches = train_batches(train, format, config, world, device)
    teacher = open_teacher(config, model, classes, device, steps=steps)
    new = _new_by_growth(config, source, model)
    trainer = assemble(config, source, model, selection, new, teacher, batches, device, world, steps=steps)
    carried = _carry(config, source, trainer, new, fresh) if config.carry_optimizer else 0
    return Job(
        config=config,
        source=source,
        spec=_named(spec, classes),
        trainer=trainer,
        train=batches,
        eval=eval_batches(held_out, format, config, world, device),
        steps=steps,
        epochs=math.ceil(steps / len(batches)),
        macs=macs,
        choices=earlier or choices,
        release=Selection(frozenset(model.state_dict())) if config.freeze_epochs else None,
        carried=carried,
        remarks=tuple(dict.fromkeys((*train.remarks, *held_out.remarks, *remarks(config, trainer, carried)))),
    )


def foresee(config: RunConfig, source: Checkpoint, world: World, teacher: Checkpoint | None = None) -> Foreseen:
    """Check a run whose checkpoint does not exist yet, without reading weights or images.

    Args:
        source: the checkpoint, as far as it is known.
        world: the processes that will share the work.
        teacher: the checkpoint to learn from, if it does not exist yet either; else that of the options.

    Raises:
        PlanError: options, data or classes do not fit the checkpoint. All options that are wrong by themselves are
            told at once.
    """
    require_possible(config, RunFolder(config.output), world, lambda: source)
    spec = spec_for(source.spec, config.num_classes)
    model = build(spec.with_args(**_model_args(config)), where=source.name)
    train, _, classes = open_splits(config, spec, model, source.name)
    _require_norms(config, source, model)
    if source.form is None and config.train != "new":
        _require_variance(config, source, model, select(config.train, source, model), world)
    macs = training_macs(count_macs(spec, model).total, inputs=1)
    if config.macs is not None:  # otherwise the teacher need not be opened
        macs += teacher_macs(config) if teacher is None else macs_of(teacher.spec, where=teacher.name)
    per_epoch = len(train) // config.batch_size
    return Foreseen(_named(spec, classes), length_of(config, train, per_epoch, macs), per_epoch)


def _model_args(config: RunConfig) -> dict[str, Any]:
    return {} if config.drop_path is None else {"drop_path_rate": config.drop_path}


def _dense(source: Checkpoint, model: nn.Module) -> nn.Module:
    """Return the model without templates: making weights of templates is no work on an image."""
    return model if source.form is None else build(source.spec)


def _named(spec: ModelSpec, classes: tuple[str, ...]) -> ModelSpec:
    """Return the spec with these names of the classes, unless it has names already or there are none."""
    if spec.label_names is not None or not classes:
        return spec
    return replace(spec, extra={**spec.extra, "label_names": list(classes)})


def _require_norms(config: RunConfig, source: Checkpoint, model: nn.Module) -> None:
    """Raise PlanError for options about BatchNorm if the model has none."""
    flags = [f"--recalibrate {config.recalibrate}"] if config.recalibrate else []
    flags += ["--sync-bn"] if config.sync_bn else []
    if flags and not tracking_norms(model):
        found = f"found no BatchNorm with running statistics in {source.name}"
        raise PlanError([f"{flag}: {found}; drop the option" for flag in flags])


def _require_variance(
    config: RunConfig, source: Checkpoint, model: nn.Module, selection: Selection, world: World
) -> None:
    """Raise PlanError if a BatchNorm would estimate a variance from a single value of each channel."""
    if config.sync_bn and world.size > 1:
        return
    shares = world.size * config.grad_accum_steps
    # Frozen norms take statistics as well: all of them when they are recalibrated, and once the frozen epochs are over.
    all_norms = config.recalibrate or config.freeze_epochs
    selection.train_mode(model)
    norms = {name for name, module in tracking_norms(model).items() if module.training or all_norms}
    model.eval()
    remedy = f"make --batch-size {2 * shares} or more" + (
        f", as {world.size} processes times {config.grad_accum_steps} --grad-accum-steps share it, or lower these"
        if shares > 1
        else ", or leave BatchNorm as it is with --train PATTERN"
    )
    try:
        require_several_values(_dense(source, model), config.batch_size // shares, remedy, frozenset(norms))
    except PlanError as error:
        raise PlanError([f"--batch-size {config.batch_size}: {problem}" for problem in error.problems]) from None


def teacher_macs(config: RunConfig) -> int:
    """Return the multiply-accumulates of the teacher's forward pass on one image; 0 without a teacher."""
    if config.kd_teacher is None:
        return 0
    return macs_of(open_checkpoint(config.kd_teacher).spec, where=str(config.kd_teacher))


def _new_by_growth(config: RunConfig, source: Checkpoint, model: nn.Module) -> Selection:
    """Return what growth added to the checkpoint if an option is about that, else an empty selection."""
    flags = {"--new-warmup": config.new_warmup is not None, "--new-state": config.new_state != "carried"}
    given = " and ".join(flag for flag, is_given in flags.items() if is_given)
    return new_selection(source, model, given, without="drop the option") if given else Selection(frozenset())


def _carry(config: RunConfig, source: Checkpoint, trainer: Trainer, new: Selection, fresh: frozenset[str]) -> int:
    """Load the optimizer state beside the checkpoint, but for the `fresh` parameters; return how many it fits."""
    state = begun_anew(read_state(source.path.parent), new, config.new_state)
    shapes = {name: info.shape for name, info in source.stored.items() if name not in fresh}
    carried = adopt(trainer.optimizer, trainer.model, state, shapes)
    if not carried:
        raise PlanError(
            f"--carry-optimizer: the state beside {source.name} "
            + (
                "fits none of the tensors that train; drop the option"
                if state.algorithm == optimizer_class(config.opt)
                else f"is of another optimizer than --opt {config.opt}, expected the same; use that one, or drop the "
                "option"
            )
        )
    return carried


def remarks(config: RunConfig, trainer: Trainer, carried: int) -> Iterator[str]:
    """Yield a sentence for each option that does less than its value says.

    Args:
        trainer: before its first update.
        carried: number of parameters whose optimizer state was loaded.
    """
    ranks = [module.up.shape[1] for module in trainer.model.modules() if isinstance(module, LowRank)]
    if smaller := [rank for rank in ranks if rank < config.lora_rank]:
        yield (
            f"--lora-rank {config.lora_rank}: {len(smaller)} of {len(ranks)} adapters have a smaller one, down to "
            f"{min(smaller)}, half of the smaller side of their matrices"
        )
    groups = trainer.optimizer.param_groups
    held = sum(len(group["params"]) for group in groups)
    if config.carry_optimizer and carried < held:
        yield f"--carry-optimizer: the state fits {carried} of the {held} tensors that train, the others begin without"
    if all(group.get("lr_scale", 1.0) == 1.0 for group in groups):
        if config.layer_decay is not None:
            yield f"--layer-decay {config.layer_decay:g}: all that trains is in the topmost layer, whose rate is --lr"
        if config.lr_factors:
            yield "--lr-factors: growth.json has no factor but 1 for what trains, so every rate is --lr"
