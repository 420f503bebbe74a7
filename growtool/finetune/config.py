"""What a fine-tuning run is asked to do; no torch here, so that the command line can build it at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from growtool.finetune.choices import AmpDtype

CLIP_MODES = ("norm", "value", "agc")
ANNEALING = ("linear", "cosine", "constant")
TRACKERS = ("tensorboard", "wandb", "trackio")
ALTERNATIVES = (("epochs", "steps", "macs"), ("warmup_epochs", "warmup_steps"))  # of each group one at most
PATHS = {
    "checkpoint": "CHECKPOINT",
    "data": "--data",
    "val_data": "--set val_data=FOLDER",
    "output": "--output",
    "kd_teacher": "--kd-teacher",
}  # options that are paths, as the command line has them
STATELESS = "swan"  # the optimizer that is ours; all others are timm's
DEFAULT_EPOCHS = 10
DEFAULT_EMA_DECAY = 0.9998  # timm's
DEFAULT_KD_WEIGHT = 0.5
MOST_WORKERS = 16  # by default: what they hold in memory grows with them


def own_workers(processes: int | None = None) -> int:
    """This process's share of the cores, 1 to `MOST_WORKERS`; None asks torchrun how many processes there are here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // (processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. Where timm's train script has an option of the same meaning, the field has its name.

    Options of `growtool.finetune.defaults.AUTOMATIC` that are None follow from network, optimizer and images.

    A step is one update by the optimizer; an epoch is one pass over the training images.
    """

    checkpoint: Path
    """A timm folder or a `.safetensors` file with its architecture."""
    data: Path
    """A folder of images (`train/CLASS/*`, `validation/CLASS/*`), of tar files or of parquet; or `dataset`'s root."""
    output: Path
    """The run's folder: `best/`, `last/`, `checkpoints/`, `metrics.jsonl`, `summary.csv`, `config.yaml`."""
    resume: str | None = None
    """`auto` continues the run in `output` where there is one; a path names a checkpoint of it."""

    plugins: tuple[Path, ...] = ()
    """Python files that register models in timm."""
    dataset: str = ""
    """A dataset string of timm, e.g. `torch/cifar10`, `hfds/uoft-cs/cifar10` or `wds/name`."""
    val_data: Path | None = None
    """A folder that holds the evaluation split, in place of `data`; needed where `dataset` is a stream."""
    train_split: str | None = None
    """Name of the training split; by default the first that is there of train and training."""
    val_split: str | None = None
    """Name of the evaluation split; by default the first that is there of validation, val, valid and test."""
    data_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of timm's reader, e.g. `input_key` and `target_key`."""

    epochs: int | None = None
    """Passes over the training images; `DEFAULT_EPOCHS` where `steps` is not given either."""
    steps: int | None = None
    """Updates in all, in place of `epochs`."""
    macs: float | None = None
    """Multiply-accumulates to spend on training, in place of `epochs`."""
    batch_size: int = 128
    """Images of one update, over all processes and accumulation steps."""
    grad_accum_steps: int = 1
    """Parts in which the images of an update pass through the model, to save memory."""

    num_classes: int | None = None
    """A fresh head for so many classes in the place of the checkpoint's, for other classes than it was trained on."""
    train: str = "all"
    """What trains: `all`; `new`, what growth made, tensors and parts of them; `coefficients` or `templates` of a
    checkpoint in template form; or patterns of names, `layer4.*,fc.*`."""
    freeze_epochs: int = 0
    """Epochs for which only `train` trains; after them everything does. 0: `train` holds for the whole run."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank in place of the matrices they are added to; 0 trains the matrices."""
    lora_alpha: float = 16.0
    """Adapters are scaled by alpha / sqrt(rank)."""
    lora_targets: str = "*"
    """Pattern of the layers that get adapters."""
    recalibrate: int = 0
    """Training images from which BatchNorm's running statistics are estimated anew before the first update."""
    carry_optimizer: bool = False
    """Start from the optimizer's state that stands beside the checkpoint, where it fits."""
    lr_factors: bool = False
    """Multiply each tensor's learning rate by its factor in the growth report."""
    drop_path: float | None = None
    """Stochastic depth, where the model's constructor takes `drop_path_rate`."""

    kd_teacher: Path | None = None
    """A checkpoint to learn from, usually the one that was grown."""
    kd_weight: float | None = None
    """Weight of the teacher's part in the loss at the first update, `DEFAULT_KD_WEIGHT` where there is a teacher; the
    labels have the rest."""
    kd_temperature: float = 1.0
    """Temperature of both distributions."""
    kd_anneal: str = "cosine"
    """How the weight falls to 0 over the run; `constant` keeps it."""

    opt: str = "adamw"
    """A name of `timm.optim.list_optimizers()`, or `swan`, which keeps no state."""
    opt_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer, e.g. `betas`."""
    momentum: float = 0.9
    """For the optimizers that have one."""
    from_scratch: bool = False
    """Whether the checkpoint's weights were never trained, so that a rate of None is one for training from scratch."""
    lr: float | None = None
    """Learning rate after warm-up, for the batch size as it is (no scaling rule)."""
    weight_decay: float | None = None
    """Not applied to one-dimensional parameters (biases, norms) nor to what the model itself excludes."""
    layer_decay: float | None = None
    """Factor of the learning rate from each layer to the one below it."""
    clip_grad: float | None = None
    """Limit of the gradient, as `clip_mode` measures it; 0: none. None: norm 1 for transformers."""
    clip_mode: str = "norm"
    """`norm` of all gradients, `value` of each, or `agc`, relative to the weights."""
    sched: str = "cosine"
    """Shape of the learning rate over all updates, set anew after each."""
    min_lr: float = 0.0
    """What the learning rate falls to."""
    warmup_lr: float = 0.0
    """What the warm-up starts from."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up; fractions are fine. None, and `warmup_steps` too: a tenth of the run."""
    warmup_steps: int | None = None
    """Warm-up in updates, in place of `warmup_epochs`."""

    train_crop_mode: str | None = None
    """`rrc` resizes a random crop; `rkrc` and `rkrr` resize mildly and crop, at the centre or anywhere."""
    scale: tuple[float, float] | None = None
    """Part of the image's area a training crop takes; None is timm's 0.08 to 1 for `rrc`, 0.8 to 1 for the others."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
    color_jitter: float = 0.4
    """Strength of brightness, contrast and saturation jitter; unused by timm where `aa` is set."""
    aa: str | None = None
    """timm's auto-augment policy, e.g. `rand-m9-mstd0.5`."""
    reprob: float = 0.0
    """Probability of random erasing."""
    no_aug: bool = False
    """Train on the images as evaluation sees them."""
    mixup: float = 0.0
    """Mixup alpha."""
    cutmix: float = 0.0
    """CutMix alpha."""
    smoothing: float = 0.1
    """Label smoothing."""

    amp: bool = False
    """Mixed precision."""
    amp_dtype: str | None = None
    """With `amp`: `bfloat16` (the default) or `float16` with a gradient scaler."""
    channels_last: bool = False
    """Lay images and convolutions out in channels-last order."""
    tf32: bool = True
    """On CUDA: products in TF32, and cuDNN's search for the fastest convolution, as timm's train script has them."""
    torchcompile: str | None = None
    """A `torch.compile` backend, usually `inductor`."""
    model_ema: bool = False
    """Average the weights exponentially; evaluate the average and save it as best."""
    model_ema_decay: float | None = None
    """With `model_ema`: the decay after its own warm-up."""

    engine: str = "ddp"
    """How several processes share the work: `ddp` copies the model, `fsdp` shards it."""
    sync_bn: bool = False
    """BatchNorm over the images of all processes; CUDA only."""

    nonfinite: str = "stop"
    """What a loss or gradient that is not finite does: `stop` the run, or `skip` the update."""
    seed: int = 42
    """Decides the order of the images, their augmentation, mixup and dropout."""
    workers: int = field(default_factory=own_workers)
    """Processes that read images; 0 reads in the main one. Changes nothing but speed."""
    device: str = "auto"
    """`cuda` where there is one, else `cpu`; or any torch device."""
    log_interval: int = 50
    """Updates between lines of `metrics.jsonl`."""
    log: tuple[str, ...] = ()
    """Trackers to write to as well: `tensorboard`, `wandb`, `trackio`."""
    eval_interval: int = 0
    """Updates between evaluations within an epoch; 0 evaluates at the end of epochs only. `best/` is chosen among
    epochs."""
    recovery_interval: int = 1000
    """Updates between checkpoints within an epoch; 0 saves at the end of epochs only."""
    checkpoint_hist: int = 2
    """Checkpoints to keep, besides `best/` and `last/`."""
    force: bool = False
    """Replace the run that `output` holds."""

    def __post_init__(self) -> None:
        for name in PATHS:  # strings serve as paths
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))

    def changes(self, name: str) -> bool:
        """Whether an option was set to something else than its default."""
        return any(field.name == name and getattr(self, name) != field.default for field in fields(self))

    @property
    def images_at_once(self) -> int:
        """Images that pass through the model together, over all processes."""
        return self.batch_size // self.grad_accum_steps

    @property
    def autocast(self) -> str | None:
        """Name of the type for mixed precision, None without."""
        return (self.amp_dtype or AmpDtype.bfloat16.value) if self.amp else None

    @property
    def ema_decay(self) -> float | None:
        """Decay of the weight average, None without."""
        return (DEFAULT_EMA_DECAY if self.model_ema_decay is None else self.model_ema_decay) if self.model_ema else None

    @property
    def teaching(self) -> float:
        """Weight of the teacher's part in the loss at the first update."""
        return DEFAULT_KD_WEIGHT if self.kd_weight is None else self.kd_weight

    @property
    def mixes(self) -> bool:
        """Whether labels become distributions over classes."""
        return self.mixup > 0 or self.cutmix > 0

    def budget(self, updates_per_epoch: int, macs_per_update: int = 0) -> int:
        """Updates of the whole run; of MACs as many as they suffice for."""
        if self.macs is not None:
            return int(self.macs // macs_per_update)
        return self.steps if self.steps is not None else (self.epochs or DEFAULT_EPOCHS) * updates_per_epoch

    def warmup(self, updates_per_epoch: int) -> int:
        """Updates of the warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_epochs or 0) * updates_per_epoch)

    def as_dict(self) -> dict[str, Any]:
        """Every field as plain data for YAML or JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
