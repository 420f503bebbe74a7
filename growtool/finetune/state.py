"""The folder of a run, and saving checkpoints into it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from growtool.checkpoint import TensorInfo, dtype_name, json_text, write_folder
from growtool.checkpoint.folder import CARD, METRICS, PLAN, REPORT, TRAINING
from growtool.errors import PlanError
from growtool.finetune.loop import Diverged

if TYPE_CHECKING:
    from torch import nn

    from growtool.checkpoint import Checkpoint, ModelSpec

RUN_CONFIG = "config.yaml"
_CONTENT = frozenset({"best", "last", METRICS, RUN_CONFIG})
_SECTION = "\n## Fine-tuning\n"


class RunFolder:
    """`best/`, `last/`, `metrics.jsonl` and `config.yaml` below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.best, self.last = root / "best", root / "last"
        self.metrics, self.config = root / METRICS, root / RUN_CONFIG

    def require_free(self, checkpoint: Path, *, force: bool) -> None:
        """Raise unless a run may be written here; `checkpoint` is what it starts from.

        Raises:
            PlanError: there is something that would be lost.
        """
        if self.root.exists() and not self.root.is_dir():
            raise PlanError(f"--output {self.root}: found a file, expected to write a folder; choose another place")
        held = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else []
        if held and not force:
            raise PlanError(f"--output {self.root}: it exists and is not empty; choose another place or add --force")
        if foreign := [name for name in held if name not in _CONTENT]:
            raise PlanError(
                f"--output {self.root}: found {', '.join(foreign[:4])}, expected nothing but an earlier run "
                f"({', '.join(sorted(_CONTENT))}), which is all that --force replaces; choose another place"
            )
        if held and checkpoint.resolve().is_relative_to(self.root.resolve()):
            raise PlanError(
                f"--output {self.root}: the checkpoint to start from lies in it and would be lost; choose another place"
            )

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder, without what an earlier run left there, and write down what this one does."""
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.best, self.last):
            shutil.rmtree(folder, ignore_errors=not folder.exists())
        self.metrics.unlink(missing_ok=True)
        self.config.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")


class Saver:
    """Writes a model as a timm folder with the lineage and the documents of the checkpoint it came from."""

    def __init__(self, source: Checkpoint, spec: ModelSpec) -> None:
        self.spec = spec
        folder = source.path.parent
        self._documents = {
            name: (folder / name).read_text(encoding="utf-8")
            for name in (REPORT, PLAN, CARD)
            if source.path.name == "model.safetensors" and (folder / name).is_file()
        }
        self._documents.setdefault(CARD, f"---\nlibrary_name: timm\n---\n# {spec.architecture}\n")

    def save(self, folder: Path, model: nn.Module, training: Mapping[str, Any]) -> None:
        """Write `model` to `folder`, replacing an earlier checkpoint there once the new one is complete.

        Args:
            folder: `best` or `last` of a run.
            model: its state dict is written, in the types it has.
            training: what `training.json` says: epoch, step, evaluation and more.

        Raises:
            Diverged: a weight is not finite; nothing is written.
            OSError: the disk is full; the earlier checkpoint stays.
        """
        state = model.state_dict()
        _require_finite(state)
        write_folder(
            folder,
            self.spec,
            {name: TensorInfo(tuple(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in state.items()},
            lambda name: state[name].cpu(),
            num_features=model.num_features,  # type: ignore[arg-type]
            documents=self._documents | {CARD: self._card(training), TRAINING: json_text(training)},
            metadata={"growtool_version": version("growtool")},
            force=True,
        )

    def _card(self, training: Mapping[str, Any]) -> str:
        """The card of the source with a section on the training; it takes the place of an earlier one."""
        before = self._documents[CARD].split(_SECTION)[0].rstrip("\n")
        result = training["evaluation"]
        return (
            f"{before}\n{_SECTION}\n"
            f"`growtool finetune` trained the weights further: {training['step']} updates, to the end of "
            f"epoch {training['epoch']}. "
            f"Top-1 {result['top1']:.2f} % of {result['count']} validation images. "
            f"What is said above about computing the same function as another checkpoint holds for the weights before "
            f"that. Settings and results are in `{TRAINING}`.\n"
        )


def _require_finite(state: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise Diverged(f"{name}: found a value that is not finite after training, expected finite weights")
