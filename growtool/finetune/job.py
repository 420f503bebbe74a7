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
        config: the options; those that were unset have the values that were chosen for them.
        source: the checkpoint to start from.
        spec: model of the checkpoints to write: that of `source`, with a fresh head and the names of the classes.
        trainer: model, optimizer and all else that an update needs.
        train: batches to train on.
        eval: batches to evaluate on.
        steps: updates of the whole run.
        epochs: epochs of the whole run; `steps` may end it within the last one.
        macs: multiply-accumulates of training on one image: three forward passes, and one of the teacher if there is
            one.
        choices: the values that were chosen for unset options, by name.
        release: what trains once `freeze_epochs` are over; None if nothing is frozen at first.
        carried: number of parameters whose optimizer state was loaded from beside the checkpoint.
        remarks: sentences that the user should read.
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
        """Evaluate the model, or its weight average if there is one, on the evaluation images."""
        self.trainer.settle()
        return evaluate(
            self.trainer.evaluated,
            self.eval,
            device=self.trainer.device,
            autocast=self.config.autocast,
            channels_last=self.config.channels_last,
            world=self.trainer.world,
            forward=self.trainer.predict,
        )

    def begin_epoch(self, epoch: int) -> None:
        """Put the model into training mode; let all of it train from the first epoch after the frozen ones on."""
        trainer = self.trainer
        if self.release is not None and epoch > self.config.freeze_epochs and trainer.selection is not self.release:
            trainer.selection = self.release
            trainer.guard = self.release.guard(trainer.model)
            self.release.freeze_others(trainer.model)
            # DDP exchanges the gradients of those parameters only that trained when it was created.
            trainer.forward = as_called(self.config, trainer.model, trainer.world, trainer.device)
        trainer.selection.train_mode(trainer.model)
