"""What a fine-tuning run is asked to do; no torch here, so that the command line can build it at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEDULES = ("cosine", "wsd", "constant", "none")
AMP_DTYPES = ("bfloat16", "float16")
TRAINED = ("all", "new")
CROP_MODES = ("rrc", "rkrc", "rkrr")
DEFAULT_EPOCHS = 10
DEFAULT_EMA_DECAY = 0.9998  # timm's


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. Where timm's train script has an option of the same meaning, the field has its name.

    A step is one update by the optimizer; an epoch is one pass over the training images.
    """

    checkpoint: Path
    """A timm folder or a `.safetensors` file with its architecture."""
    data: Path
    """A folder with `train/CLASS/*` and `validation/CLASS/*` images."""
    output: Path
    """The run's folder: `best/`, `last/`, `metrics.jsonl`, `config.yaml`."""

    epochs: int | None = None
    """Passes over the training images; `DEFAULT_EPOCHS` where `steps` is not given either."""
    steps: int | None = None
    """Updates in all, in place of `epochs`."""
    batch_size: int = 128
    """Images of one update."""
    train: str = "all"
    """Which parameters train: `all`, or `new`, the tensors of blocks that growth added."""

    opt: str = "adamw"
    """A name of `timm.optim.list_optimizers()`."""
    lr: float = 3e-4
    """Learning rate after warm-up, for the batch size as it is (no scaling rule)."""
    weight_decay: float = 0.05
    """Not applied to one-dimensional parameters (biases, norms) nor to what the model itself excludes."""
    sched: str = "cosine"
    """Shape of the learning rate over all updates, set anew after each."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up; fractions are fine."""
    warmup_steps: int | None = None
    """Warm-up in updates, in place of `warmup_epochs`."""

    train_crop_mode: str = "rrc"
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
    torchcompile: str | None = None
    """A `torch.compile` backend, usually `inductor`."""
    model_ema: bool = False
    """Average the weights exponentially; evaluate the average and save it as best."""
    model_ema_decay: float | None = None
    """With `model_ema`: the decay after its own warm-up."""

    seed: int = 42
    """Decides the order of the images, their augmentation, mixup and dropout."""
    workers: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    """Processes that read images; 0 reads in the main one. Changes nothing but speed."""
    device: str = "auto"
    """`cuda` where there is one, else `cpu`; or any torch device."""
    log_interval: int = 50
    """Updates between lines of `metrics.jsonl`."""
    force: bool = False
    """Replace the run that `output` holds."""

    @property
    def autocast(self) -> str | None:
        """Name of the type for mixed precision, None without."""
        return (self.amp_dtype or AMP_DTYPES[0]) if self.amp else None

    @property
    def ema_decay(self) -> float | None:
        """Decay of the weight average, None without."""
        return (DEFAULT_EMA_DECAY if self.model_ema_decay is None else self.model_ema_decay) if self.model_ema else None

    @property
    def mixes(self) -> bool:
        """Whether labels become distributions over classes."""
        return self.mixup > 0 or self.cutmix > 0

    def budget(self, updates_per_epoch: int) -> int:
        """Updates of the whole run."""
        return self.steps if self.steps is not None else (self.epochs or DEFAULT_EPOCHS) * updates_per_epoch

    def warmup(self, updates_per_epoch: int) -> int:
        """Updates of the warm-up."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round((self.warmup_epochs or 0) * updates_per_epoch)

    def as_dict(self) -> dict[str, Any]:
        """Every field as plain data for YAML or JSON."""
        values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return values | {"scale": list(self.scale) if self.scale else None}

    def problems(self) -> list[str]:
        """Everything that can be seen to be wrong without looking at a file, one line each."""
        return [*self._bad_ranges(), *self._bad_choices(), *self._contradictions()]

    def _bad_ranges(self) -> Iterator[str]:
        counts = {
            "epochs": 1,
            "steps": 1,
            "batch_size": 1,
            "log_interval": 1,
            "workers": 0,
            "warmup_steps": 0,
            "seed": 0,
        }
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                yield f"{_flag(name)}: found {value}, expected {least} or more"
        for name in ("lr", "weight_decay", "warmup_epochs", "color_jitter", "mixup", "cutmix"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                yield f"{_flag(name)}: found {value}, expected a number that is not negative"
        for name in ("hflip", "reprob"):
            if not 0 <= getattr(self, name) <= 1:
                yield f"{_flag(name)}: found {getattr(self, name)}, expected a probability between 0 and 1"
        if not 0 <= self.smoothing < 1:
            yield f"--smoothing: found {self.smoothing}, expected 0 or more and less than 1"
        if self.model_ema_decay is not None and not 0 <= self.model_ema_decay < 1:
            yield f"--model-ema-decay: found {self.model_ema_decay}, expected 0 or more and less than 1, e.g. 0.9998"
        low, high = self.scale or (0.5, 1.0)
        if not 0 < low <= high <= 1:
            yield f"--scale: found {low} {high}, expected two numbers with 0 < LOW <= HIGH <= 1, e.g. 0.3 1.0"

    def _bad_choices(self) -> Iterator[str]:
        for name, choices in (
            ("sched", SCHEDULES),
            ("amp_dtype", AMP_DTYPES),
            ("train", TRAINED),
            ("train_crop_mode", CROP_MODES),
        ):
            value = getattr(self, name)
            if value is not None and value not in choices:
                yield f"{_flag(name)}: found {value!r}, expected one of {', '.join(choices)}"

    def _contradictions(self) -> Iterator[str]:
        for one, other in (("epochs", "steps"), ("warmup_epochs", "warmup_steps")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                yield f"{_flag(one)} and {_flag(other)}: both given, expected one of them; drop either"
        if self.amp_dtype is not None and not self.amp:
            yield "--amp-dtype: given without --amp, so it would do nothing; add --amp"
        if self.model_ema_decay is not None and not self.model_ema:
            yield "--model-ema-decay: given without --model-ema, so it would do nothing; add --model-ema"
        if self.no_aug and (self.aa or self.reprob):
            yield "--no-aug: contradicts --aa and --reprob; drop one side"
        if self.mixes and self.batch_size % 2:
            yield f"--batch-size: found {self.batch_size}, expected an even number because mixup and cutmix pair images"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
