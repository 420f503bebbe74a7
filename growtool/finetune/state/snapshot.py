"""Everything a run needs to go on as if nothing had happened, taken at one moment and put back at another.

There is no state of random generators in it: every random number of a run is drawn from (seed, purpose, place), so the
seed and the number of updates say it all. timm's schedules are functions of the number of updates as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from growtool.checkpoint import WEIGHTS, infos_of, json_text, write_safetensors
from growtool.checkpoint.beside import EMA, RAW, STATE
from growtool.checkpoint.documents import read_document
from growtool.checkpoint.staging import write_text
from growtool.errors import CheckpointError
from growtool.finetune.optimizer_files import read_state, write_state
from growtool.finetune.optimizer_state import OptimizerState, capture, restore
from growtool.finetune.parallel.distributed import is_sharded
from growtool.finetune.state.copies import Copies, Finite
from growtool.finetune.state.progress import RunProgress
from growtool.finetune.state.weights import exported, is_reparametrised, origins, put_in
from growtool.finetune.update.loop import Diverged, Trainer

FORMAT = 1
_ANOTHER = "resume from another checkpoint of the run"


_COURSE = TypeAdapter(RunProgress)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy on the CPU that training does not touch any more.

    Attributes:
        weights: the plain timm model's state dict.
        evaluated: the weights that count, where these are others (an average).
        raw: the state dict that trains, where it is not the plain one (adapters, templates).
        ema: the average's state dict, None without.
        optimizer: by parameter name.
        scaler: of float16, None without.
        course: how far the run had come.
    """

    weights: Mapping[str, Tensor]
    evaluated: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] | None
    ema: Mapping[str, Tensor] | None
    optimizer: OptimizerState
    scaler: Mapping[str, Any] | None
    course: RunProgress


def take(trainer: Trainer, course: RunProgress, copies: Copies | None) -> Snapshot | None:
    """Copy the state. Every process must call this: sharded weights are gathered, one tensor at a time.

    Args:
        trainer: between two updates.
        course: how far the run has come.
        copies: the memory for it, whose last snapshot is done with; None in a process that keeps none.

    Returns:
        The snapshot, None without `copies`.

    Raises:
        Diverged: a weight is not finite.
    """
    finite = Finite()
    plain, trained = _copied(trainer.model, "model", copies, finite)
    evaluated, ema = (plain, None)
    if trainer.ema is not None:
        evaluated, ema = _copied(trainer.ema.module, "ema", copies, finite)
    held = None
    if copies is not None or is_sharded(trainer.model):
        held = capture(trainer.optimizer, trainer.model, partial(_kept, copies))
    spoilt = [name for names in trainer.world.gathered(finite.others()) for name in names]
    if spoilt:
        raise Diverged(f"{spoilt[0]}: found a value that is not finite after training, expected finite weights")
    if copies is None or held is None:
        return None
    return Snapshot(
        weights=plain,
        evaluated=evaluated,
        raw=trained if trained is not plain else None,
        ema=ema,
        optimizer=held,
        scaler=trainer.scaler.state_dict() if trainer.scaler is not None else None,
        course=RunProgress(**{name: getattr(course, name) for name in RunProgress.__slots__}),
    )


def _copied(
    model: nn.Module, whose: str, copies: Copies | None, finite: Finite
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The plain timm model's state dict and the one that trains, each tensor copied once; both empty without `copies`.

    They are one dictionary where the model is the plain one.
    """
    plain: dict[str, Tensor] = {}
    for name, tensor in exported(model):
        finite.look(name, tensor)
        if copies is not None:
            plain[name] = copies.copy(f"{whose}/{name}", tensor)
    if not is_reparametrised(model):
        return plain, plain
    trained = {name: plain[name] for name in model.state_dict() if name in plain}
    for name, tensor in origins(model):
        if copies is not None:
            trained[name] = copies.copy(f"{whose}/{name}", tensor)
    return plain, trained


def _kept(copies: Copies | None, key: str, tensor: Tensor) -> Tensor:
    """A copy of a tensor of the optimizer's; nothing in a process that has only helped to gather it."""
    return torch.empty(0) if copies is None else copies.copy(f"optimizer/{key}", tensor)


def write_training_state(folder: Path, snapshot: Snapshot) -> None:
    """Everything but the weights of the plain model, into a folder that holds these.

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
    """Give `trainer` the state in `folder`.

    Returns:
        How far the run had come.

    Raises:
        CheckpointError: the folder is not a checkpoint of this run, or damaged.
    """
    course, scaler = read_course(folder)
    reparametrised, averaged = is_reparametrised(trainer.model), trainer.ema is not None
    for name, wanted, option in ((RAW, reparametrised, "--lora-rank"), (EMA, averaged, "--model-ema")):
        if (folder / name).is_file() != wanted:
            found, expected = ("none", "one") if wanted else ("one", "none")
            raise CheckpointError(f"{folder / name}: found {found}, expected {expected}; resume with the same {option}")
    _put_back(folder / (RAW if reparametrised else WEIGHTS), trainer.model)
    if averaged:
        _put_back(folder / EMA, trainer.ema.module)
    restore(trainer.optimizer, trainer.model, read_state(folder), where=str(folder))
    if trainer.scaler is not None:
        trainer.scaler.load_state_dict(scaler)
    trainer.step, trainer.skipped = course.step, course.skipped
    return course


def read_course(folder: Path) -> tuple[RunProgress, Any]:
    """How far the run of a checkpoint had come, and the state of its scaler.

    Raises:
        CheckpointError: there is no such state, or it is damaged.
    """
    path = folder / STATE

    def read(document: Any) -> tuple[RunProgress, Any]:
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path}: found format {document['format']}, expected {FORMAT}; update growtool")
        course = {name: document["course"][name] for name in RunProgress.__slots__}
        return _COURSE.validate_json(json.dumps(course), strict=True), document["scaler"]

    return read_document(path, read, expected="the state of a run; name a folder of the run's checkpoints/, or `auto`")


def _put_back(path: Path, model: nn.Module) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_ANOTHER}") from error
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    for name, tensor in model.state_dict().items():
        if found.get(name) != list(tensor.shape):
            shape = found.get(name, "none")
            raise CheckpointError(f"{path}: {name}: found {shape}, expected {list(tensor.shape)}; {_ANOTHER}")
    put_in(model, state)
