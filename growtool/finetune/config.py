"""What a fine-tuning run is asked to do; no torch here, so that the command line can build it at once."""

from __future__ import annotations

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from growtool.finetune.checks import find_contradictions
from growtool.finetune.choices import AmpDtype
from growtool.finetune.kinds import FilePath
from growtool.finetune.settings import DEFAULT_EMA_DECAY, DEFAULT_EPOCHS, DEFAULT_KD_WEIGHT, Settings
from growtool.plan.section import problem

STATELESS = "swan"  # the optimizer that is ours; all others are timm's


class RunConfig(Settings):
    """One run: settings that go together, and what no run can do without."""

    checkpoint: FilePath = Field(description="the checkpoint to train")
    data: FilePath = Field(description="a folder of images")
    output: FilePath = Field(description="the folder of the run")

    @model_validator(mode="after")
    def _go_together(self) -> RunConfig:
        """Refuse all contradictions at once."""
        found = [
            InitErrorDetails(type=problem(text), loc=names, input=None) for names, text in find_contradictions(self)
        ]
        if found:
            raise ValidationError.from_exception_data("RunConfig", found)
        return self

    def changes(self, name: str) -> bool:
        """Whether an option was set to something else than its default."""
        return bool(getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True))

    @property
    def images_at_once(self) -> int:
        """Images that pass through the model together, over all processes."""
        return self.batch_size // self.grad_accum_steps

    @property
    def autocast(self) -> AmpDtype | None:
        """Name of the type for mixed precision, None without."""
        return (self.amp_dtype or "bfloat16") if self.amp else None

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
