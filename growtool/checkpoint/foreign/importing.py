"""Importing checkpoints of training scripts: unwrapped, loaded as their library loads them, and written as folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.beside import CARD, plain_card
from growtool.checkpoint.documents import CONFIG, WEIGHTS, spec_beside
from growtool.checkpoint.folder import is_single_file, refuse_existing, write_file, write_folder
from growtool.checkpoint.foreign.explaining import differences
from growtool.checkpoint.foreign.names import foreign_prefix, without
from growtool.checkpoint.foreign.remedy import INDEX_ENDING, indices, shards, weight_files
from growtool.checkpoint.foreign.torch_file import StateDict, read_state_dict
from growtool.checkpoint.header import read_header
from growtool.checkpoint.tensors import infos_of, require_finite
from growtool.errors import CheckpointError, PlanError
from growtool.library import ModelSpec, build, library_of, spec_named
from growtool.library.building import shapes_of
from growtool.library.loaded import Loaded

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Imported:
    """A file that was imported, and what was changed or left out on the way.

    Attributes:
        file: the file that was read.
        keys: the keys that lead to the state dict in the file, from outside in.
        others: other keys of the file that hold a state dict, too.
        left: entries of the state dict that are no tensors of a model.
        prefix: the prefix that was removed from the names.
        unused: tensors whose names do not begin with `prefix`.
        changes: what the library did to the other tensors while it loaded them, a phrase for each kind of change.
        preparation: settings for the preparation of inputs that were taken from the training script's arguments into
            the config.
    """

    file: Path
    keys: tuple[str, ...]
    others: tuple[str, ...]
    left: tuple[str, ...]
    prefix: str
    unused: tuple[str, ...]
    changes: tuple[str, ...]
    preparation: tuple[str, ...]


def import_checkpoint(
    source: Path, out: Path, *, model: str | None, model_args: Mapping[str, Any], force: bool = False
) -> Imported:
    """Import a checkpoint that a training script saved, into a folder or a lone file with its config.

    Args:
        source: a file of `torch.save` or of safetensors, or a folder with one.
        out: the folder or `.safetensors` file to write.
        model: the name of the model; None if a `config.json` beside the file tells it.
        model_args: arguments of the constructor, which come before those of the config.
        force: whether to replace an older output.

    Raises:
        PlanError: the output exists, or nothing says which model it is.
        CheckpointError: the file cannot be read without running code, the library does not take the tensors, or they
            hold numbers that are not finite.
    """
    refuse_existing(out, force=force)
    file = _file_of(source)
    found = _state_of(file)
    spec = _spec(file, found, model, model_args)
    skeleton = build(spec, where=str(file))
    prefix = foreign_prefix(found.tensors, skeleton.state_dict())
    named = {name: found.tensors[old] for old, name in without(prefix, found.tensors).items()}
    loaded = _load(spec, named, skeleton, file)
    # The tensors that the library gave to the model, in the file's type: the model holds them in its own. What is not
    # among them torch has filled in, such as BatchNorm's count of batches.
    values = {
        name: loaded.given.get(name, tensor).detach().contiguous().clone()
        for name, tensor in loaded.model.state_dict().items()
    }
    require_finite(str(file), values, dict(skeleton.named_buffers()))
    spec, preparation = library_of(spec).prepared(spec, skeleton, loaded, _said(found))
    _write(out, spec, skeleton, values, force=force)
    return Imported(
        file=file,
        keys=found.keys,
        others=found.others,
        left=found.left,
        prefix=prefix,
        unused=tuple(name for name in found.tensors if not name.startswith(prefix)),
        changes=tuple(loaded.changes(named)),
        preparation=preparation,
    )


def _file_of(source: Path) -> Path:
    """Return the file of weights that a path means; in a folder the one that timm would load, or the only one."""
    if not source.is_dir():
        return source
    held = [path for path in weight_files(source) if path.name == WEIGHTS] or indices(source) or weight_files(source)
    if len(held) != 1:
        found = ", ".join(path.name for path in held[:8]) or "none"
        raise CheckpointError(f"{source}: found {found}, expected one file of weights; name the file")
    return held[0]


def _state_of(file: Path) -> StateDict:
    """Return the state dict in a file, or in all shards of an index."""
    if file.name.endswith(INDEX_ENDING):
        parts = [_state_of(file.with_name(name)).tensors for name in shards(file)]
        return StateDict({name: part[name] for part in parts for name in part})
    if file.suffix != ".safetensors" or _is_pickle(file):
        return read_state_dict(file)
    read_header(file)  # its errors tell more than those of the safetensors library
    from safetensors.torch import load_file

    return StateDict(load_file(file))


def _is_pickle(file: Path) -> bool:
    """Return whether a file begins like one of `torch.save`, or is missing, which `read_state_dict` reports."""
    if not file.is_file():
        return True
    with file.open("rb") as opened:
        return opened.read(2) in (b"PK", b"\x80\x02")  # a zip file, or before torch 1.6 a pickle of protocol 2


def _spec(file: Path, found: StateDict, model: str | None, model_args: Mapping[str, Any]) -> ModelSpec:
    """Return the model that the user names, or the config beside the file; raise PlanError if neither does."""
    if model is not None:
        return spec_named(model, model_args)
    beside = spec_beside(file)
    if beside is None:
        arch = found.beside.get("arch")
        hint = f"; its `arch` is {arch}: --model {arch}" if isinstance(arch, str) else ""
        raise PlanError(
            f"{file}: found no {CONFIG} beside it, expected --model NAME (and --model-args), the timm model it is "
            f"for{hint}"
        )
    return beside.with_args(**model_args)


def _load(spec: ModelSpec, state: Mapping[str, Tensor], skeleton: nn.Module, file: Path) -> Loaded:
    """Let the library load a state dict as the weights of a model.

    Raises:
        CheckpointError: the library does not take the tensors, or lacks values for some of the model's.
    """
    library, problem = library_of(spec), None
    try:
        loaded = library.take(spec, state)
    except Exception as error:  # a library raises whatever its code for old checkpoints trips over
        problem = error
    else:
        if not loaded.missing:
            return loaded
    findings = differences(shapes_of(skeleton), {key: tuple(tensor.shape) for key, tensor in state.items()})
    if not findings and problem is not None:
        findings = [f"{type(problem).__name__}: {problem}"]
    raise CheckpointError(
        f"{file}: {library.name} does not take the tensors as those of {spec.described}:\n"
        + "\n".join(f"- {line}" for line in findings)
        + "\nname the model it is of with --model, and its arguments with --model-args (num_classes=10, ...)"
    )


def _said(found: StateDict) -> Mapping[str, Any]:
    """Return the arguments of the training script, if the file holds them; else none."""
    said = found.beside.get("args")
    return said if isinstance(said, Mapping) else vars(said) if said is not None and hasattr(said, "__dict__") else {}


def _write(out: Path, spec: ModelSpec, skeleton: nn.Module, values: Mapping[str, Tensor], *, force: bool) -> None:
    infos = infos_of(values)
    common: dict[str, Any] = {
        "model": skeleton,
        "metadata": {"growtool_version": version("growtool")},
        "force": force,
    }
    if is_single_file(out):
        write_file(out, spec, infos, values.__getitem__, **common)
    else:
        write_folder(out, spec, infos, values.__getitem__, documents={CARD: plain_card(spec)}, **common)
