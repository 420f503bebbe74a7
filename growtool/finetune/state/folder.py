"""The folder of a run: its layout, and how checkpoints are written into it so that each is complete or absent."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from growtool.checkpoint import infos_of, json_text, write_folder
from growtool.checkpoint.beside import CARD, PLAN, REPORT, STATE, TRAINING, documents_beside
from growtool.checkpoint.staging import TEMPORARY, prefix_for, staging, sync_folder, take_place, write_text
from growtool.errors import PlanError
from growtool.finetune.commands import resuming
from growtool.finetune.options.merging import RUN_CONFIG
from growtool.finetune.state.journal import METRICS, SUMMARY
from growtool.finetune.state.lock import LOCK
from growtool.finetune.state.records import CheckpointRecord, Evaluation
from growtool.finetune.state.snapshot import Snapshot, write_training_state

if TYPE_CHECKING:
    from growtool.finetune.job import Job

_CONTENT = frozenset({"best", "last", "checkpoints", "tensorboard", METRICS, SUMMARY, RUN_CONFIG})
"""All that a run writes into its folder, apart from hidden files."""
_SECTION = "\n## Fine-tuning\n"  # begins the section of a card that a run adds


class RunFolder:
    """The paths of a run: `best/`, `last/`, `checkpoints/`, `metrics.jsonl`, `summary.csv`, `config.yaml` in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.best, self.last, self.checkpoints = root / "best", root / "last", root / "checkpoints"
        self.metrics, self.config = root / METRICS, root / RUN_CONFIG

    def require_free(self, checkpoint: str | Path, *, force: bool) -> None:
        """Check that a new run may be written here without losing anything.

        Args:
            checkpoint: what the run starts from.
            force: whether an earlier run may be replaced; nothing else may.

        Raises:
            PlanError: the folder holds something that would be lost.
        """
        if self.root.exists() and not self.root.is_dir():
            raise PlanError(f"--output {self.root}: found a file, expected to write a folder; choose another place")
        held = sorted(path.name for path in self.root.iterdir() if path.name != LOCK) if self.root.is_dir() else []
        if held and not force:
            going_on = f", or continue its run with\n{resuming(self.root)}" if self.config.is_file() else ""
            raise PlanError(
                f"--output {self.root}: it exists and is not empty; choose another place, add --force{going_on}"
            )
        if foreign := [name for name in held if name not in _CONTENT and not name.startswith(".")]:
            raise PlanError(
                f"--output {self.root}: found {', '.join(foreign[:4])}, expected nothing but an earlier run "
                f"({', '.join(sorted(_CONTENT))}), which is all that --force replaces; choose another place"
            )
        if held and Path(checkpoint).resolve().is_relative_to(self.root.resolve()):
            raise PlanError(
                f"--output {self.root}: the checkpoint to start from lies in it and would be lost; choose another place"
            )

    def create(self, config: Mapping[str, Any]) -> None:
        """Create the folder, remove what an earlier run wrote there, and write `config.yaml`."""
        self.root.mkdir(parents=True, exist_ok=True)
        for path in (self.root / name for name in _CONTENT - {RUN_CONFIG}):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_text(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def saved(self) -> list[Path]:
        """Return the folders in `checkpoints/`, oldest first; all are complete, since they are named last."""
        return sorted(path for path in self.checkpoints.glob("step-*") if (path / STATE).is_file())

    def of_step(self, step: int) -> Path:
        """Return the folder in `checkpoints/` for the state after `step` updates; names sort as steps do."""
        return self.checkpoints / f"step-{step:08d}"


class Saver:
    """Writes the checkpoints of a run: timm folders with the documents of the checkpoint that the run started from.

    Snapshots are written in a thread while training goes on, one at a time; `wait` raises the errors of writing. A
    snapshot becomes `checkpoints/step-N`. One of the end of an epoch is then linked as `last/` (hard links to the same
    files), and if the epoch is the best so far, its evaluated weights are written to `best/`. In this order a crash at
    any moment loses nothing, and `best/` is never of an update after the latest state to resume from.

    Args:
        settings: the run's configuration, for `training.json`.
    """

    def __init__(self, folder: RunFolder, job: Job, settings: Mapping[str, Any]) -> None:
        self._folder, self._job, self._settings = folder, job, settings
        form = job.source.form
        self._metadata = {"growtool_version": version("growtool"), **(form.metadata() if form else {})}
        self._documents = documents_beside(job.source, (REPORT, PLAN))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._running: Future[CheckpointRecord] | None = None

    def save_best(self, weights: Mapping[str, Tensor], training: dict[str, Any]) -> None:
        """Write `best/`: the weights that are evaluated, and what `training.json` tells of their epoch."""
        whose = "model" if self._job.trainer.ema is None else "ema"
        self._save(self._folder.best, weights, training | {"weights": whose})

    def wait(self) -> CheckpointRecord | None:
        """Wait until nothing is being written; return the record of the checkpoint, None if there is no new one.

        Raises:
            OSError: the checkpoint could not be written; earlier ones are as they were.
        """
        running, self._running = self._running, None
        return running.result() if running is not None else None

    def submit(self, snapshot: Snapshot, *, stall: float, evaluation: Evaluation | None) -> None:
        """Begin to write a snapshot; call `wait` first if there was an earlier one.

        Args:
            snapshot: what to write; its tensors must not change before the next `wait`.
            stall: seconds for which training stood still to take the snapshot.
            evaluation: result of the epoch that ends with this snapshot; None within an epoch.
        """
        assert self._running is None, "an earlier snapshot is still being written"
        self._running = self._pool.submit(self._write, snapshot, stall, evaluation)

    def close(self) -> None:
        """Wait for the thread to finish; errors are raised by `wait` alone."""
        self._pool.shutdown(wait=True)

    def _write(self, snapshot: Snapshot, stall: float, evaluation: Evaluation | None) -> CheckpointRecord:
        start, course = time.perf_counter(), snapshot.course
        training = {
            "epoch": course.epoch,
            "step": course.step,
            "train_loss": course.last.train_loss if course.last and evaluation else None,
            "evaluation": asdict(evaluation) if evaluation else None,
            "config": dict(self._settings),
        }
        path = self._folder.of_step(course.step)
        self._save(path, snapshot.weights, training | {"weights": "model"}, state=snapshot)
        if evaluation is not None:
            link(path, self._folder.last)
            if course.last is not None and course.last == course.best:
                self.save_best(snapshot.evaluated, training)
        for old in self._folder.saved()[: -self._job.config.checkpoint_hist]:
            remove(old)
        size = sum(file.stat().st_size for file in path.iterdir())
        return CheckpointRecord(course.step, stall, time.perf_counter() - start, size)

    def _save(
        self,
        folder: Path,
        weights: Mapping[str, Tensor],
        training: Mapping[str, Any],
        *,
        state: Snapshot | None = None,
    ) -> None:
        """Write `folder`; a checkpoint that is already there is replaced once the new one is complete.

        Args:
            weights: tensors by name, on the CPU.
            training: the content of `training.json`: epoch, step, evaluation and more.
            state: everything needed to resume the run from the folder; None to leave it out.

        Raises:
            OSError: the disk is full; the earlier checkpoint stays.
        """

        def documents(staged: Path) -> Mapping[str, str]:
            if state is not None:
                write_training_state(staged, state)
            return self._documents | {CARD: self._card(training), TRAINING: json_text(training)}

        write_folder(
            folder,
            self._job.spec,
            infos_of(weights),
            lambda name: weights[name],
            model=self._job.trainer.model,
            documents=documents,
            metadata=self._metadata,
            force=True,
        )

    def _card(self, training: Mapping[str, Any]) -> str:
        """Return the card of the source with a section on the training, which replaces that of an earlier run."""
        before = self._documents[CARD].split(_SECTION)[0].rstrip("\n")
        result = training["evaluation"]
        measured = f"Top-1 {result['top1']:.2f} % of {result['count']} validation images. " if result else ""
        return (
            f"{before}\n{_SECTION}\n"
            f"`growtool finetune` trained the weights further: {training['step']} updates, to epoch "
            f"{training['epoch']}. {measured}"
            f"What is said above about computing the same function as another checkpoint holds for the weights before "
            f"that. Settings and results are in `{TRAINING}`.\n"
        )


def remove(path: Path) -> None:
    """Remove a checkpoint if it exists. It is renamed first, so that no half-removed folder has the name."""
    if not path.exists():
        return
    doomed = path.with_name(f"{prefix_for(path.name)}removed{TEMPORARY}")
    path.rename(doomed)
    shutil.rmtree(doomed)


def link(source: Path, target: Path) -> None:
    """Make `target` a folder with hard links to the files in `source`, or copies if the file system has no links."""
    with staging(target) as folder:
        for file in source.iterdir():
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copy2(file, folder / file.name)
        folder.chmod(source.stat().st_mode & 0o777)
        sync_folder(folder)
        take_place(folder, target.resolve())
