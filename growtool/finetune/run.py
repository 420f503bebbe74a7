"""Fine-tuning from start to finish."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.errors import CheckpointError, PlanError
from growtool.finetune.evaluate import evaluate_folder
from growtool.finetune.loop import Diverged, train_epoch
from growtool.finetune.prepare import Job, prepare, require_possible
from growtool.finetune.records import EpochRecord, Evaluation, MetricsFile, Progress, Silent
from growtool.finetune.seeding import isolated_generators
from growtool.finetune.state import RunFolder, Saver

if TYPE_CHECKING:
    from growtool.finetune.config import RunConfig


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to.

    Attributes:
        output: the run's folder.
        initial: the checkpoint before the first update.
        best: the epoch whose weights stand in `best/`.
        last: the final epoch, whose weights stand in `last/`.
        final: `best/` read back from the disk and evaluated again.
        steps: updates done.
        seconds: wall time of training and evaluation.
        trained_parameters: parameters that trained, in elements.
        parameters: all parameters, in elements.
    """

    output: Path
    initial: EpochRecord
    best: EpochRecord
    last: EpochRecord
    final: Evaluation
    steps: int
    seconds: float
    trained_parameters: int
    parameters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the line that loads the best checkpoint."""
        best = str(self.output / "best")
        return asdict(self) | {"output": str(self.output), "load": load_line(best)}


def load_line(folder: str) -> str:
    """The Python that loads a timm folder."""
    return f'timm.create_model("local-dir:{folder}", pretrained=True)'


def finetune(config: RunConfig, progress: Progress | None = None) -> RunResult:
    """Train a checkpoint further; `config.output` gets `best/`, `last/`, `metrics.jsonl` and `config.yaml`.

    Args:
        config: what to do.
        progress: who watches.

    Raises:
        PlanError: an option, the data or the output is at fault, or training diverged; in that case `last/` and `best/`
            hold the latest good epoch.
        CheckpointError: the checkpoint is at fault.
    """
    folder = RunFolder(config.output)
    device = require_possible(config, folder)
    with isolated_generators(device):
        job = prepare(config, device)
        settings = _resolved(job)
        folder.create(settings)
        with MetricsFile(folder.metrics) as metrics:
            return _Run(job, settings, folder, metrics, progress or Silent()).result()


def _resolved(job: Job) -> dict[str, Any]:
    """The content of `config.yaml`: every option, and what it came to with this checkpoint and these images."""
    import timm
    import torch

    trainer = job.trainer
    return job.config.as_dict() | {
        "resolved": {
            "source_sha256": job.source.sha256(),
            "device": str(trainer.device),
            "epochs": job.epochs,
            "steps": job.steps,
            "steps_per_epoch": len(job.train),
            "warmup_steps": job.config.warmup(len(job.train)),
            "train_images": job.train.sampler.count,
            "classes": list(job.spec.label_names or ()),
            "trained_parameters": trainer.selection.count(trainer.model),
            "versions": {"growtool": version("growtool"), "timm": timm.__version__, "torch": str(torch.__version__)},
        }
    }


class _Run:
    """One run under way."""

    def __init__(
        self, job: Job, settings: dict[str, Any], folder: RunFolder, metrics: MetricsFile, progress: Progress
    ) -> None:
        self.job, self.settings, self.folder, self.metrics, self.progress = job, settings, folder, metrics, progress
        self.saver = Saver(job.source, job.spec)
        self.best: EpochRecord | None = None
        self.last: EpochRecord | None = None

    def result(self) -> RunResult:
        """Run it."""
        job, trainer, start = self.job, self.job.trainer, time.perf_counter()
        self.progress.started(steps=job.steps, epochs=job.epochs, images=job.train.sampler.count)
        initial = self._before_training()
        try:
            for epoch in range(1, job.epochs + 1):
                self._epoch(epoch)
        except Diverged as error:
            raise PlanError(f"{error}; {self._remedy()}") from None
        assert self.best is not None and self.last is not None
        return RunResult(
            output=self.folder.root,
            initial=initial,
            best=self.best,
            last=self.last,
            final=self._final(),
            steps=trainer.step,
            seconds=time.perf_counter() - start,
            trained_parameters=trainer.selection.count(trainer.model),
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        )

    def _before_training(self) -> EpochRecord:
        result = self.job.evaluate()
        if not math.isfinite(result.loss):
            raise CheckpointError(
                f"{self.job.source.name}: found an evaluation loss of {result.loss} before the first update, "
                "expected a finite number; the weights are damaged, or --amp-dtype float16 does not suffice for them"
            )
        return self._tell(EpochRecord(0, 0, None, result.top1, result.top5, result.loss, best=False))

    def _epoch(self, epoch: int) -> None:
        """Train one epoch, evaluate, save."""
        trainer, before, loss_sum = self.job.trainer, self.job.trainer.step, 0.0
        first = before
        for done in train_epoch(
            trainer,
            self.job.train.epoch(epoch),
            epoch=epoch,
            stop=self.job.steps,
            interval=self.job.config.log_interval,
            advanced=self.progress.advanced,
        ):
            loss_sum, before = loss_sum + done.loss * (done.step - before), done.step
            self.metrics.write(done)
            self.progress.logged(done)
        result = self.job.evaluate()
        if not math.isfinite(result.loss):
            raise Diverged(f"step {trainer.step}: found an evaluation loss of {result.loss}, expected a finite number")
        train_loss = loss_sum / (trainer.step - first)
        record = EpochRecord(epoch, trainer.step, train_loss, result.top1, result.top5, result.loss, best=False)
        record = replace(record, best=self.best is None or record.rank > self.best.rank)
        self._save(record, result)
        self._tell(record)

    def _save(self, record: EpochRecord, result: Evaluation) -> None:
        trainer = self.job.trainer
        training = {"epoch": record.epoch, "step": record.step, "train_loss": record.train_loss}
        documents = training | {"evaluation": asdict(result), "config": self.settings}
        self.saver.save(self.folder.last, trainer.model, documents | {"weights": "model"})
        self.last = record
        if record.best:
            weights = "ema" if trainer.ema is not None else "model"
            self.saver.save(self.folder.best, trainer.evaluated, documents | {"weights": weights})
            self.best = record

    def _tell(self, record: EpochRecord) -> EpochRecord:
        self.metrics.write(record)
        self.progress.evaluated(record)
        return record

    def _final(self) -> Evaluation:
        config = self.job.config
        return evaluate_folder(
            self.folder.best,
            config.data,
            batch_size=config.batch_size,
            workers=config.workers,
            device=config.device,
            autocast=config.autocast,
            channels_last=config.channels_last,
        )

    def _remedy(self) -> str:
        config = self.job.config
        advice = f"lower --lr (now {config.lr:g}) or lengthen the warm-up"
        if config.autocast == "float16":
            advice += ", or use --amp-dtype bfloat16"
        if self.last is None:
            return f"{advice}; no epoch was complete, so no checkpoint was saved"
        return f"{advice}; {self.folder.last} holds epoch {self.last.epoch}, the last good one"
