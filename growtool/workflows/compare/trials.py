"""Running the trials of a comparison: each is a process, skipped if it is done, resumed if it was interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from growtool.checkpoint.folder import json_text
from growtool.errors import GrowtoolError, PlanError
from growtool.finetune.state.journal import METRICS, read_events
from growtool.finetune.state.points import read_points
from growtool.workflows.compare.arms import Arm
from growtool.workflows.compare.results import FRACTIONS, Outcome
from growtool.workflows.compare.study import Study
from growtool.workflows.compare.variant import Variant

_SETTINGS, _RESULT, _LOG = "trial.json", "result.json", "log.txt"
_START, _RUN = "start", "run"
NEWS_SECONDS = 10.0
"""Seconds between reports on a run that goes on."""


@dataclass(frozen=True)
class Trial:
    """One training run of an arm.

    Attributes:
        arm: what trains.
        seed: of growth and training.
        lr: learning rate; None leaves it to the recipe.
        folder: holds the start, the run and its result.
    """

    arm: Arm
    seed: int
    lr: float | None
    folder: Path

    @property
    def name(self) -> str:
        """The trial as messages name it."""
        return f"{self.arm.title}, seed {self.seed}" + (f", lr {self.lr:g}" if self.lr is not None else "")


@dataclass(frozen=True, slots=True)
class Failed:
    """A trial that did not end, and the last line that it wrote."""

    trial: Trial
    reason: str


def options_file(variant: Variant) -> str:
    """Return the file with the options of a variant in the folder of a comparison."""
    return f"training{variant.suffix}.yaml"


class Runner:
    """Runs trials side by side.

    Args:
        study: what is compared; without its `devices`, `growtool finetune` chooses one.
        settings: everything that decides a result, except the arm, the seed and a trial's own learning rate.
        told: called with a line whenever a trial starts, is skipped or ends.
    """

    def __init__(self, study: Study, settings: Mapping[str, Any], told: Callable[[str], None]) -> None:
        self.study, self.settings, self.told = study, settings, told
        self._devices: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for slot in range(study.jobs):
            self._devices.put(study.devices[slot % len(study.devices)] if study.devices else None)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopping = threading.Event()
        # Building a model sets hooks and a random state that all threads of the process share.
        self._building = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=study.jobs)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        """End the trials that still run; the same comparison resumes them later."""
        self._stopping.set()
        for child in list(self._children):
            child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def check(self, trials: Sequence[Trial]) -> None:
        """Check that no folder holds a trial of other settings.

        Raises:
            PlanError: one problem for each folder that does.
        """
        foreign = [trial for trial in trials if self._held(trial) not in (None, self._settings(trial))]
        if foreign:
            raise PlanError(
                [
                    f"{trial.folder}: holds a trial of other settings (plan, budget, recipe, data or checkpoint), "
                    "expected the same or none; choose another --output or remove it"
                    for trial in foreign
                ]
            )

    def run(self, trials: Sequence[Trial]) -> list[Outcome | Failed]:
        """Run the trials that are not done yet; return the outcomes of all, in their order."""
        return list(self._pool.map(self._outcome, trials))

    def _outcome(self, trial: Trial) -> Outcome | Failed:
        done = (trial.folder / _RESULT).exists()
        try:
            if done:
                self.told(f"{trial.name}: done before")
            else:
                self._start(trial)
                with self._device() as device:
                    self.told(f"{trial.name}: training")
                    self.train(trial, device)
            outcome = Outcome(trial.seed, trial.lr, read_points(trial.folder / _RUN))
        except Exception as error:  # one trial that fails does not end the hours of the others
            reason = str(error) if isinstance(error, GrowtoolError | OSError) else f"{type(error).__name__}: {error}"
            reason += f"; to run it again, remove {trial.folder}" if done else ""
            self.told(f"{trial.name}: {'stopped' if self._stopping.is_set() else f'failed: {reason}'}")
            return Failed(trial, reason)
        if not done:
            self.told(f"{trial.name}: {outcome.final:.2f} % in {outcome.seconds:,.0f} s")
        return outcome

    def _settings(self, trial: Trial) -> str:
        chosen = {name: choice.value for name, choice in trial.arm.choices.items()}
        described = {"arm": trial.arm.fingerprint(), "seed": trial.seed, "lr": trial.lr, **self.settings}
        described |= {"defaults": chosen} if chosen else {}
        return hashlib.sha256(json_text(described, sort_keys=True).encode()).hexdigest()

    def _held(self, trial: Trial) -> str | None:
        path = trial.folder / _SETTINGS
        return str(json.loads(path.read_text(encoding="utf-8"))["settings"]) if path.exists() else None

    def _start(self, trial: Trial) -> None:
        """Write the checkpoint that training starts from, unless it exists."""
        if self._held(trial) is not None:  # the settings are written last, so the start beside them is complete
            return
        shutil.rmtree(trial.folder, ignore_errors=True)
        trial.folder.mkdir(parents=True)
        if trial.arm.plan or trial.arm.from_scratch:
            self.told(f"{trial.name}: {'initialising' if trial.arm.from_scratch else 'growing'}")
        with self._building:
            trial.arm.write_start(trial.folder / _START, trial.seed, self.told)
        (trial.folder / _SETTINGS).write_text(json_text({"settings": self._settings(trial)}), encoding="utf-8")

    @contextmanager
    def _device(self) -> Iterator[str | None]:
        device = self._devices.get()
        try:
            yield device
        finally:
            self._devices.put(device)

    def train(self, trial: Trial, device: str | None) -> None:
        """Train to the end, in a process of its own.

        Raises:
            GrowtoolError: the process failed.
        """
        command = [sys.executable, "-m", "growtool", "finetune", str(trial.arm.start(trial.folder / _START))]
        options = self.study.output / options_file(trial.arm.variant)
        command += ["--config", str(options), "--output", str(trial.folder / _RUN), "--resume", "auto"]
        command += ["--steps", str(trial.arm.steps), "--seed", str(trial.seed), "--json"]
        if self.study.options.get("eval_interval") is None:  # then after each quarter of the updates
            command += ["--set", f"eval_interval={max(1, int(FRACTIONS[0] * trial.arm.steps))}"]
        command += ["--set", "from_scratch=true"] if trial.arm.from_scratch else []
        command += ["--lr", repr(trial.lr)] if trial.lr is not None else []
        command += ["--device", device] if device else []
        for plugin in self.study.plugins:
            command += ["--plugin", str(plugin)]
        with (trial.folder / _LOG).open("ab") as log:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=self._environment())
            self._children.add(child)
            if self._stopping.is_set():  # it was started while `__exit__` went through the children
                child.terminate()
            output = self.awaited(child, trial)
            self._children.discard(child)
        if child.returncode:
            raise GrowtoolError(f"growtool finetune ended with {child.returncode}: {_last_line(trial.folder / _LOG)}")
        (trial.folder / _RESULT).write_bytes(output)

    def awaited(self, child: subprocess.Popen[bytes], trial: Trial) -> bytes:
        """Wait for a process and return its output; meanwhile report now and then how far it is."""
        reached = None
        while True:
            try:
                return child.communicate(timeout=NEWS_SECONDS)[0]
            except subprocess.TimeoutExpired:
                before, reached = reached, _reached(trial)
                if reached != before:
                    self.told(f"{trial.name}: {reached}")

    def _environment(self) -> dict[str, str]:
        """Return the environment of a trial: cores are divided among the jobs, unless the user has set a number."""
        threads = max(1, (os.cpu_count() or 1) // self.study.jobs)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}


def _reached(trial: Trial) -> str:
    """Return how far a running trial is."""
    try:
        events = list(read_events(trial.folder / _RUN / METRICS))
    except GrowtoolError:  # the run has not written anything yet
        return "reading images and checkpoint"
    done = max((event["step"] for event in events), default=0)
    accuracy = [event["top1"] for event in events if event["event"] in ("epoch", "evaluation")]
    return f"update {done:,} of {trial.arm.steps:,}" + (f", {accuracy[-1]:.2f} %" if accuracy else "")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1]} ({log})" if lines else f"see {log}"
