"""The whole state of a run: copied while it trains, written to disk, and given back to a trainer on resuming.

The states of random generators are not in it. Every random number of a run is drawn from (seed, purpose, place), so the
seed and the number of updates determine them all. timm's schedules are functions of the number of updates as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from growtool.checkpoint import WEIGHTS, infos_of, json_text, write_safetensors
from growtool.checkpoint.beside import EMA, RAW, STATE
from growtool.checkpoint.documents import read_document
from growtool.checkpoint.staging import write_text
from growtool.errors import CheckpointError
from growtool.finetune.optimizer_files import read_state, write_state
from growtool.finetune.optimizer_state import OptimizerState, capture, restore
from growtool.finetune.parallel.distributed import as_sharded, is_sharded
from growtool.finetune.state.copies import Copies, Finite
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.weights import adapted, exported, origins
from growtool.finetune.update.loop import Diverged, Trainer

FORMAT = 1  # version of state.json
_ANOTHER = "resume from another checkpoint of the run"
_COURSE = TypeAdapter(RunProgress)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a run's state on the CPU, which training does not change.

    Attributes:
        weights: state dict of the plain timm model.
        evaluated: state dict of the plain timm model that is evaluated: the weight average if there is one, else
            `weights`.
        raw: state dict of the model that trains if it has adapters, else None.
        ema: state dict of the weight average as it is kept (like `raw`, or the plain one); None without an average.
        optimizer: state of the optimizer by parameter name.
        scaler: state of the float16 gradient scaler; None without one.
        course: progress of the run.
    """

    weights: Mapping[str, Tensor]
    evaluated: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] | None
    ema: Mapping[str, Tensor] | None
    optimizer: OptimizerState
    scaler: Mapping[str, Any] | None
    course: RunProgress


def take(trainer: Trainer, course: RunProgress, copies: Copies | None) -> Snapshot | None:
    """Copy the state of a run. Every process must call this, since sharded tensors are gathered one at a time.

    Args:
        trainer: between two updates.
        copies: memory for the copies, which overwrite the last snapshot; None in a process that only helps to gather.

    Returns:
        The snapshot; None without `copies`.

    Raises:
        Diverged: a weight is not finite, in whatever process it was found.
    """
    finite = Finite()
    plain, trained = _copied(trainer.model, "model", copies, finite)
    evaluated, ema = plain, None
    if trainer.ema is not None:
        evaluated, ema = _copied(trainer.ema.module, "ema", copies, finite)
    optimizer = None
    if copies is not None or is_sharded(trainer.model):
        optimizer = capture(trainer.optimizer, trainer.model, partial(_kept, copies))
    # After all copies, since this is what waits for the device to complete them.
    spoilt = [name for names in trainer.world.gathered(finite.failed()) for name in names]
    if spoilt:
        raise Diverged(f"{spoilt[0]}: found a value that is not finite after training, expected finite weights")
    if copies is None or optimizer is None:
        return None
    return Snapshot(
        weights=plain,
        evaluated=evaluated,
        raw=trained if trained is not plain else None,
        ema=ema,
        optimizer=optimizer,
        scaler=trainer.scaler.state_dict() if trainer.scaler is not None else None,
        course=replace(course),
    )


def _copied(
    model: nn.Module, whose: str, copies: Copies | None, finite: Finite
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copy each tensor of a model once, and add the tensors of the plain model to the check.

    Args:
        model: what trains, or its average.
        whose: begins the keys of the copies.
        copies: memory for the copies; None to only gather and check.

    Returns:
        The state dict of the plain timm model, and that of `model`: the same object if `model` is the plain one. Both
        are empty without `copies`.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in exported(model):
        finite.look(name, tensor)
        if copies is not None:
            plain[name] = copies.copy(f"{whose}/{name}", tensor)
    if not adapted(model):
        return plain, plain
    trained = {name: plain[name] for name in model.state_dict() if name in plain}
    for name, tensor in origins(model):
        if copies is not None:
            trained[name] = copies.copy(f"{whose}/{name}", tensor)
    return plain, trained


def _kept(copies: Copies | None, key: str, tensor: Tensor) -> Tensor:
    """Copy a tensor of the optimizer; return an empty one in a process that only helps to gather."""
    return torch.empty(0) if copies is None else copies.copy(f"optimizer/{key}", tensor)


def write_training_state(folder: Path, snapshot: Snapshot) -> None:
    """Write all of a snapshot but the plain weights into `folder`.

    Raises:
        OSError: the disk is full.
    """
    write_state(folder, snapshot.optimizer)
    for name, state in ((RAW, snapshot.raw), (EMA, snapshot.ema)):
        if state is not None:
            write_safetensors(folder / name, infos_of(state), state.__getitem__, {"format": "pt"})
    document = {"format": FORMAT, "course": asdict(snapshot.course), "scaler": snapshot.scaler}
    write_text(folder / STATE, json_text(document))


def put_back(folder: Path, trainer: Trainer) -> RunProgress:
    """Load the state in `folder` into `trainer`.

    Returns:
        The progress of the run when the state was saved.

    Raises:
        CheckpointError: the folder is not a checkpoint of this run, or is damaged.
    """
    course, scaler = read_course(folder)
    has_adapters, averaged = bool(adapted(trainer.model)), trainer.ema is not None
    for name, wanted, option in ((RAW, has_adapters, "--lora-rank"), (EMA, averaged, "--model-ema")):
        if (folder / name).is_file() != wanted:
            found, expected = ("none", "one") if wanted else ("one", "none")
            raise CheckpointError(f"{folder / name}: found {found}, expected {expected}; resume with the same {option}")
    _put_back(folder / (RAW if has_adapters else WEIGHTS), trainer.model)
    if averaged:
        _put_back(folder / EMA, trainer.ema.module)
    restore(trainer.optimizer, trainer.model, read_state(folder), where=str(folder))
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict(scaler)
    trainer.step, trainer.skipped = course.step, course.skipped
    return course


def read_course(folder: Path) -> tuple[RunProgress, Any]:
    """Return the progress of the run when a checkpoint was saved, and the state of its gradient scaler.

    Raises:
        CheckpointError: the folder has no `state.json`, or it is damaged.
    """
    path = folder / STATE

    def read(document: Any) -> tuple[RunProgress, Any]:
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path}: found format {document['format']}, expected {FORMAT}; update growtool")
        course = {name: document["course"][name] for name in RunProgress.__slots__}
        # As JSON, since only there does pydantic's strict mode take a list for a tuple and a mapping for a dataclass.
        return _COURSE.validate_json(json.dumps(course), strict=True), document["scaler"]

    return read_document(path, read, expected="the state of a run; name a folder of the run's checkpoints/, or `auto`")


def _put_back(path: Path, model: nn.Module) -> None:
    """Load a file of tensors into `model`; raise CheckpointError if one is missing or has another shape."""
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_ANOTHER}") from error
    for name, tensor in model.state_dict().items():
        found = list(state[name].shape) if name in state else "none"
        if found != list(tensor.shape):
            raise CheckpointError(f"{path}: {name}: found {found}, expected {list(tensor.shape)}; {_ANOTHER}")
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(as_sharded(state[name].to(tensor.device), tensor))
