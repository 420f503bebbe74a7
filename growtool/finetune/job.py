"""A run that is ready to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from growtool.checkpoint import Checkpoint, ModelSpec
from growtool.finetune.assemble import as_called
from growtool.finetune.config import RunConfig
from growtool.finetune.data.loaders import ImageBatches, StreamBatches
from growtool.finetune.evaluate import evaluate
from growtool.finetune.options.defaults import Choice
from growtool.finetune.state.records import Evaluation
from growtool.finetune.update.loop import Trainer
from growtool.finetune.update.trainable import Selection


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
        choices: the options that were left unset, which `config` holds as they were chosen.
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
    choices: Mapping[str, Choice]
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
            forward=self.trainer.predict,
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
