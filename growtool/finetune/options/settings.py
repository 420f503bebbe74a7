"""The options of a training, each declared once: name, type, bounds, default, meaning, and its flag if it has one.

The flags and the help of `growtool finetune`, the files of a run and of a schedule, their JSON schemas and the messages
about them are all made from this class. Options that timm's train script has, too, have the same names here.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from growtool.finetune.options.choices import (
    AmpDtype,
    Annealing,
    ClipMode,
    CropMode,
    DecayShape,
    Engine,
    NewState,
    Nonfinite,
    Schedule,
    Tracker,
)
from growtool.finetune.options.kinds import (
    Amount,
    Count,
    Crop,
    Factor,
    FilePath,
    Flag,
    Number,
    Part,
    Share,
    Source,
    as_tuple,
)
from growtool.finetune.options.lengths import Length
from growtool.plan.section import Section, problem

DEFAULT_EPOCHS = 10
DEFAULT_EMA_DECAY = 0.9998  # timm's
DEFAULT_KD_WEIGHT = 0.5
MOST_WORKERS = 16  # by default: their memory grows with their number
_WHAT, _LENGTH, _OPTIMIZER = "What trains", "Length", "Optimizer"  # panels of the help
_IMAGES, _SPEED, _OUTPUT = "Images and labels", "Speed and memory", "Output"


def default_workers(processes: int | None = None) -> int:
    """Return this process's share of the machine's cores, 1 to `MOST_WORKERS`, for its workers.

    Args:
        processes: processes on this machine that share the cores; None for the number that torchrun tells, else 1.
    """
    # A container or a batch system may grant fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // (processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))


class Settings(Section):
    """Options of a training as a file or the command line gives them: any of them, none of them needed.

    The first sentence of a description is the help of the flag. A step is one update by the optimizer; an epoch is one
    pass over the training images. Those of `AUTOMATIC` in `defaults.py` that are None follow from
    network, optimizer and images.
    """

    model_config = ConfigDict(use_attribute_docstrings=True, title="A training")
    KEYS: ClassVar[str] = "an option as `growtool finetune --help-all` and config.yaml of a run list them"
    NULL: ClassVar[bool] = True
    BY: ClassVar[str] = ""  # the kind of file whose other parts decide the options in `DECIDED`, for messages

    checkpoint: Annotated[Source | None, Flag("CHECKPOINT")] = None
    """A timm folder, a .safetensors file, or a name."""
    data: Annotated[FilePath | None, Flag("FOLDER")] = None
    """train/CLASS/* and validation/CLASS/* (val/, test/), tar or parquet files. Or the root of `dataset`."""
    output: Annotated[FilePath | None, Flag("RUN", shown="NAME-finetuned", short="-o")] = None
    """Folder of the run. It gets `best/`, `last/`, `checkpoints/`, `metrics.jsonl`, `summary.csv`, `config.yaml`."""
    resume: Annotated[str | None, Flag("auto|PATH")] = None
    """Go on with the run in --output. `auto`, where there is one; a path names one of its checkpoints."""
    plugins: Annotated[tuple[FilePath, ...], BeforeValidator(as_tuple)] = ()
    """Python files that register models in timm."""

    num_classes: Annotated[Count | None, Flag("N")] = None
    """Put a fresh head for N classes on it. For other classes than the checkpoint was trained on."""
    train: Annotated[str, Flag("WHAT")] = "all"
    """all, new (what growth made), coefficients, templates, or names: 'layer4.*,fc.*'."""
    freeze_epochs: Annotated[Number, Flag(panel=_WHAT)] = 0
    """After so many epochs of --train everything trains. 0: never."""
    lora_rank: Annotated[Number, Flag(panel=_WHAT)] = 0
    """Train low-rank adapters (LoRA-GA), merged on saving. 0 trains the matrices themselves."""
    lora_alpha: Factor = 16.0
    """Adapters are scaled by alpha / sqrt(rank)."""
    lora_targets: str = "*"
    """Pattern of the layers that get adapters."""
    kd_teacher: Annotated[Source | None, Flag("TEACHER")] = None
    """Learn from this checkpoint too. Usually from the one that was grown."""
    kd_weight: Annotated[Share | None, Flag(panel=_WHAT, shown=str(DEFAULT_KD_WEIGHT))] = None
    """Its part in the loss at first; it falls to 0. The labels have the rest."""
    kd_temperature: Factor = 1.0
    """Temperature of the teacher's and the student's distribution."""
    kd_anneal: Annealing = "cosine"
    """How the teacher's part falls to 0 over the run; `constant` keeps it."""
    recalibrate: Annotated[Number, Flag(panel=_WHAT)] = 0
    """Images for BatchNorm's statistics before training. They are estimated anew before the first update."""
    carry_optimizer: Annotated[bool, Flag(panel=_WHAT)] = False
    """Start from the optimizer state of CHECKPOINT. It has to stand beside it, and to fit."""
    new_state: Annotated[NewState, Flag(panel=_WHAT)] = "carried"
    """What --carry-optimizer makes of new positions. As growth mapped it, 0, or of the mean size of the old ones."""
    new_warmup: Annotated[Length | None, Flag("N", _WHAT)] = None
    """Warm-up of what growth made: 0.1 of the run, 2epochs, 500steps. From 0 to full updates, there alone."""
    lr_factors: Annotated[bool, Flag(panel=_WHAT)] = False
    """Scale rates as the report of growth says. Each tensor's rate by its own factor."""
    drop_path: Share | None = None
    """Stochastic depth, where the model's constructor takes `drop_path_rate`."""
    from_scratch: bool = False
    """Whether the weights were never trained, so that a rate left unset is one for training from scratch."""

    epochs: Annotated[Count | None, Flag("N", shown=str(DEFAULT_EPOCHS))] = None
    """Passes over the images."""
    steps: Annotated[Count | None, Flag("N")] = None
    """Updates, in place of --epochs."""
    macs: Factor | None = None
    """Multiply-accumulates to spend on training, in place of `epochs`."""
    batch_size: Annotated[Count, Flag("N", short="-b")] = 128
    """Images of one update. Over all processes and accumulation steps."""

    opt: Annotated[str, Flag("NAME")] = "adamw"
    """An optimizer of timm, or swan. A name of `timm.optim.list_optimizers()`; swan keeps no state."""
    opt_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the optimizer, e.g. `betas`."""
    momentum: Amount = 0.9
    """For the optimizers that have one."""
    lr: Annotated[Amount | None, Flag("RATE", shown="1e-4; SGD: 0.03, without BatchNorm 0.01")] = None
    """Learning rate after warm-up. For the batch size as it is (no scaling rule)."""
    weight_decay: Annotated[Amount | None, Flag(panel=_OPTIMIZER, shown="0.05; SGD: 5e-4")] = None
    """Not for biases and norms. Nor for what the model itself excludes."""
    layer_decay: Annotated[Factor | None, Flag(panel=_OPTIMIZER)] = None
    """Factor of the rate from layer to layer. From each to the one below it."""
    clip_grad: Annotated[Amount | None, Flag(panel=_OPTIMIZER, shown="1 for transformers")] = None
    """Limit of the gradient's norm; 0: none. Or of what `clip_mode` measures."""
    clip_mode: ClipMode = "norm"
    """`norm` of all gradients, `value` of each, or `agc`, relative to the weights."""
    sched: Annotated[Schedule, Flag(panel=_OPTIMIZER)] = "cosine"
    """Course of the learning rate, update by update. wsd: warm-up, stable, decay."""
    min_lr: Amount = 0.0
    """What the learning rate falls to."""
    warmup_lr: Amount = 0.0
    """What the warm-up starts from."""
    warmup_epochs: Annotated[Amount | None, Flag("N", shown="a tenth of the run, at most 5")] = None
    """Linear warm-up; fractions too."""
    warmup_steps: Annotated[Number | None, Flag(panel=_OPTIMIZER)] = None
    """In updates, in place of --warmup-epochs."""
    decay_epochs: Annotated[Factor | None, Flag("N", _OPTIMIZER, shown="0.2")] = None
    """Decay at the end of wsd; below 1 a part of the run. Of what the warm-up leaves of it."""
    decay_steps: Count | None = None
    """In updates, in place of `decay_epochs`."""
    lr_decay_fn: DecayShape = "1-sqrt"
    """How the rate of wsd falls."""
    sched_start: Number = 0
    """Updates of the rate's course that lie before the run, which then is a part of one over several runs."""
    sched_steps: Count | None = None
    """Updates of the rate's whole course; by default those before the run and its own."""
    model_ema: Annotated[bool, Flag(panel=_OPTIMIZER)] = False
    """Evaluate and save an average of the weights. The average is exponential, and chosen as best."""
    model_ema_decay: Annotated[Part | None, Flag(panel=_OPTIMIZER, shown=str(DEFAULT_EMA_DECAY))] = None
    """Decay of the average after its warm-up."""

    dataset: Annotated[str, Flag(panel=_IMAGES)] = ""
    """A dataset of timm, e.g. torch/cifar10; --data is its root. `hfds/uoft-cs/cifar10` or `wds/name`, too."""
    val_data: FilePath | None = None
    """A folder that holds the evaluation split, in place of `data`; needed where `dataset` is a stream."""
    train_split: str | None = None
    """Name of the training split; by default the first that is there of train and training."""
    val_split: str | None = None
    """Name of the evaluation split; by default the first that is there of validation, val, valid and test."""
    data_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's reader, e.g. `input_key` and `target_key`."""
    train_crop_mode: Annotated[CropMode | None, Flag(panel=_IMAGES, shown="rkrr below 96 pixels, else rrc")] = None
    """timm's random crops: mild (rkrc, rkrr) or zooming (rrc)."""
    scale: Annotated[Crop, Flag("LOW HIGH", _IMAGES, shown="0.08 1; 0.8 1 for rkrc, rkrr")] = None
    """Part of the image's area a crop takes."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Amount = 0.4
    """Strength of brightness, contrast and saturation jitter; unused by timm where `aa` is set."""
    aa: Annotated[str | None, Flag(panel=_IMAGES)] = None
    """Auto-augment policy, e.g. rand-m9-mstd0.5."""
    reprob: Annotated[Share, Flag(panel=_IMAGES)] = 0.0
    """Probability of random erasing."""
    no_aug: Annotated[bool, Flag(panel=_IMAGES)] = False
    """Train on the images as evaluation sees them."""
    mixup: Annotated[Amount, Flag(panel=_IMAGES)] = 0.0
    """Mixup alpha."""
    cutmix: Annotated[Amount, Flag(panel=_IMAGES)] = 0.0
    """CutMix alpha."""
    smoothing: Annotated[Part, Flag(panel=_IMAGES)] = 0.1
    """Label smoothing."""

    amp: Annotated[bool, Flag()] = False
    """Mixed precision."""
    amp_dtype: Annotated[AmpDtype | None, Flag(panel=_SPEED, shown="bfloat16")] = None
    """Type for --amp. `float16` has a gradient scaler."""
    channels_last: Annotated[bool, Flag(panel=_SPEED)] = False
    """Channels-last memory layout of images and convolutions."""
    tf32: Annotated[bool, Flag(panel=_SPEED, help="On CUDA: full float32 products.")] = True
    """On CUDA: products in TF32, and cuDNN's search for the fastest convolution, as timm's train script has them."""
    torchcompile: Annotated[str | None, Flag("BACKEND", _SPEED)] = None
    """torch.compile backend, e.g. inductor."""
    grad_accum_steps: Annotated[Count, Flag(panel=_SPEED)] = 1
    """Parts an update's images pass through in; saves memory."""
    engine: Annotated[Engine, Flag(panel=_SPEED)] = "ddp"
    """Under torchrun: copies of the model, or shards."""
    sync_bn: bool = False
    """BatchNorm over the images of all processes; CUDA only."""
    workers: Annotated[Number, Flag(panel=_SPEED, shown=f"cores, up to {MOST_WORKERS}")] = Field(
        default_factory=default_workers
    )
    """Processes that read images. 0 reads in the main one. Changes nothing but speed."""
    device: Annotated[str, Flag("NAME")] = "auto"
    """auto, cpu, cuda or cuda:N. Or any device of torch; auto takes cuda where there is one."""
    seed: Annotated[Number, Flag("N")] = 42
    """Decides order, augmentation, dropout."""
    nonfinite: Annotated[Nonfinite, Flag(panel=_LENGTH)] = "stop"
    """What a loss that is nan or inf does to the run or the update."""

    log_interval: Annotated[Count, Flag(panel=_OUTPUT)] = 50
    """Updates between lines of metrics.jsonl."""
    log: Annotated[tuple[Tracker, ...], BeforeValidator(as_tuple), Flag("NAME", _OUTPUT)] = ()
    """Track the run in tensorboard, wandb or trackio, too; repeatable."""
    eval_interval: Number = 0
    """Updates between evaluations within an epoch; 0 evaluates at the end of epochs only. `best/` is of an epoch."""
    recovery_interval: Annotated[Number, Flag(panel=_OUTPUT)] = 1000
    """Updates between checkpoints within an epoch. 0 saves at the end of epochs only."""
    checkpoint_hist: Annotated[Count, Flag(panel=_OUTPUT)] = 2
    """Checkpoints to keep. Besides `best/` and `last/`."""
    force: Annotated[bool, Flag()] = False
    """Replace an earlier run. The one that `output` holds."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_free(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name in cls.DECIDED:
            raise problem(f"the {cls.BY} decides this; drop it")
        return value

    def as_dict(self) -> dict[str, Any]:
        """Return every field as plain data for YAML or JSON."""
        return self.model_dump(mode="json")

    def as_given(self) -> dict[str, Any]:
        """Return the fields that were set, as plain data for YAML or JSON."""
        return self.model_dump(mode="json", exclude_unset=True)


RATE = (
    "sched", "min_lr", "warmup_lr", "warmup_epochs", "warmup_steps", "decay_epochs", "decay_steps", "lr_decay_fn",
    "sched_start", "sched_steps",
)  # fmt: skip
"""The options of the course of the learning rate."""
NEW = ("new_state", "new_warmup")
"""The options about the new positions of the latest growth."""
KINDS = get_type_hints(Settings)  # the types of the options without their annotations
FLAGS = {
    name: data for name, field in Settings.model_fields.items() for data in field.metadata if isinstance(data, Flag)
}


def flag_of(name: str) -> str:
    """Return the name of an option in messages: its flag or argument, or `--set NAME` for one without."""
    if name not in FLAGS:
        return f"--set {name}"
    return name.upper() if FLAGS[name].metavar == name.upper() else f"--{name.replace('_', '-')}"
