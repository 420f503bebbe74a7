"""One schedule of the learning rate over all training stages, in the middle of which the model grows.

Training costs least if the model grows once and late, and if the rate stays high until then and falls once, at the end
of the whole run (warm-up, stable, decay; arXiv 2511.04981). Time is counted in updates, whatever unit budgets have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from growtool.finetune.options.choices import DecayShape
from growtool.finetune.options.kinds import Amount
from growtool.finetune.options.lengths import Length, updates_of
from growtool.plan.section import Section, problem

_DECAY = "0.2"
_SHAPE = ("lr_decay_fn", "min_lr", "warmup_lr")  # options of training with the same names


class Rate(Section):
    """The learning rate over the whole schedule, as the file gives it."""

    sched: Literal["wsd", "cosine", "constant"] = Field(default="wsd", description="warm-up, stable, decay; or another")
    warmup: Length = Field(default="0.05", description="linear warm-up: part of the whole, epochs or steps")
    decay: Length | None = Field(default=None, description="decay at the end, of wsd: part of the whole, 0.2; or steps")
    lr_decay_fn: DecayShape = Field(default="1-sqrt", description="how the rate of wsd falls")
    min_lr: Amount = Field(default=0.0, description="what the rate falls to")
    warmup_lr: Amount = Field(default=0.0, description="what the warm-up starts from")

    @model_validator(mode="after")
    def _goes_together(self) -> Rate:
        if self.sched != "wsd" and self.model_fields_set & {"decay", "lr_decay_fn"}:
            raise problem(f"decay and lr_decay_fn are without effect on {self.sched}; drop them, or use wsd")
        if self.sched == "constant" and self.min_lr:
            raise problem("min_lr is without effect on constant, which never falls; use cosine or wsd")
        if self.warmup_lr and not updates_of(self.warmup, whole=1000, per_epoch=1000):
            raise problem("warmup_lr is without effect as there is no warm-up; drop it, or give warmup")
        return self


@dataclass(frozen=True, slots=True)
class Span:
    """A training stage: its number, its updates, and the updates of one of its epochs."""

    number: int
    steps: int
    per_epoch: int


@dataclass(frozen=True, slots=True)
class Course:
    """A rate laid out over the training stages.

    Attributes:
        rate: as the file gives it.
        spans: of all training stages, in their order.
    """

    rate: Rate
    spans: Sequence[Span]

    @property
    def steps(self) -> int:
        """Updates of all stages."""
        return sum(span.steps for span in self.spans)

    @property
    def warmup(self) -> int:
        """Updates of the warm-up; epochs are those of the first training stage."""
        return updates_of(self.rate.warmup, whole=self.steps, per_epoch=self.spans[0].per_epoch)

    @property
    def decay(self) -> int:
        """Updates of the decay, 0 without one; epochs are those of the last training stage."""
        if self.rate.sched != "wsd":
            return 0
        return updates_of(self.rate.decay or _DECAY, whole=self.steps, per_epoch=self.spans[-1].per_epoch)

    def before(self, number: int) -> int:
        """Return the updates before a stage."""
        return sum(span.steps for span in self.spans if span.number < number)

    def options(self, number: int) -> dict[str, Any]:
        """Return the options that make a training stage follow the rate."""
        wsd = {"decay_steps": self.decay} if self.rate.sched == "wsd" else {}
        shape = {name: getattr(self.rate, name) for name in _SHAPE if name in self.rate.model_fields_set}
        place = {"sched_start": self.before(number), "sched_steps": self.steps}
        return {"sched": self.rate.sched, "warmup_steps": self.warmup, **wsd, **shape, **place}

    def problems(self) -> Iterator[str]:
        """Yield a problem if warm-up and decay do not fit into the updates of all stages."""
        if self.warmup + self.decay >= self.steps or (self.rate.sched == "wsd" and not self.decay):
            decay = f" and a decay of {self.decay}" if self.rate.sched == "wsd" else ""
            yield (
                f"found a warm-up of {self.warmup}{decay} in {self.steps} updates of all stages, expected both to fit "
                "in and a stable part between them; correct warmup and decay, or train longer"
            )

    def problems_of_growth(self, number: int) -> Iterator[str]:
        """Yield a problem if a stage grows during warm-up or decay of wsd; before and after the whole run it may."""
        at, falls = self.before(number), self.steps - self.decay
        if self.rate.sched != "wsd" or at in (0, self.steps) or self.warmup <= at <= falls:
            return
        part, name = ("the warm-up", "warmup") if at < self.warmup else ("the decay", "decay")
        yield (
            f"grows after update {at:,} of {self.steps:,}, in {part} of the schedule's rate, expected "
            f"growth in its stable part, from update {self.warmup:,} to {falls:,}; give the stages other budgets, or "
            f"shorten {name} in `rate`"
        )
