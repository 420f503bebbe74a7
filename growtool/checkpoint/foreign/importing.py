"""Checkpoints of training scripts as folders: unwrapped, loaded as their library loads them, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.beside import CARD, plain_card
from growtool.checkpoint.documents import CONFIG, spec_beside
from growtool.checkpoint.folder import is_single_file, refuse_existing, write_file, write_folder
from growtool.checkpoint.foreign.names import foreign_prefix, without
from growtool.checkpoint.foreign.remedy import INDEX_ENDING, indices, shards, weight_files
from growtool.checkpoint.foreign.torch_file import StateDict, read_state_dict
from growtool.checkpoint.header import read_header
from growtool.checkpoint.match import differences
from growtool.checkpoint.reader import WEIGHTS
from growtool.checkpoint.tensors import infos_of, require_finite
from growtool.errors import CheckpointError, PlanError
from growtool.library import ModelSpec, build, library_of, spec_named
from growtool.library.building import shapes_of
from growtool.library.loaded import Loaded

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Imported:
    """What was read, and what was changed or left out on the way.

    Attributes:
        file: what was read.
        keys: where the state dict stands in it, from outside in.
        others: other keys that hold a state dict, too.
        left: entries of the state dict that are no tensors of a model.
        prefix: what was taken off the names.
        unused: tensors whose names do not begin with it.
        changes: what the library did to the rest while it loaded them, a phrase for each kind.
        preparation: what the training script's arguments say of how inputs were prepared, and the config now says.
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
    """Write a timm folder (or a lone file with its config) of what training scripts save.

    Args:
        source: a file of `torch.save` or of safetensors, or a folder with one.
        out: what to write.
        model: its name; None where a `config.json` beside the file says it.
        model_args: arguments of its constructor, over those of the config.
        force: replace an existing output.

    Raises:
        PlanError: the output exists, or nothing says which model it is.
        CheckpointError: the file cannot be read without running code, its library does not take the tensors, or they
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
    """The file of weights that is meant by a path; in a folder the one that timm would load, or the only one."""
    if not source.is_dir():
        return source
    held = [path for path in weight_files(source) if path.name == WEIGHTS] or indices(source) or weight_files(source)
    if len(held) != 1:
        found = ", ".join(path.name for path in held[:8]) or "none"
        raise CheckpointError(f"{source}: found {found}, expected one file of weights; name the file")
    return held[0]


def _state_of(file: Path) -> StateDict:
    """The state dict in a file, or in the shards of an index."""
    if file.name.endswith(INDEX_ENDING):
        parts = [_state_of(file.with_name(name)).tensors for name in shards(file)]
        return StateDict({name: part[name] for part in parts for name in part}, (), (), (), {})
    if file.suffix != ".safetensors" or _is_pickle(file):
        return read_state_dict(file)
    read_header(file)
    from safetensors.torch import load_file

    return StateDict(load_file(file), (), (), (), {})


def _is_pickle(file: Path) -> bool:
    if not file.is_file():
        return True
    with file.open("rb") as opened:
        return opened.read(2) in (b"PK", b"\x80\x02")


def _spec(file: Path, found: StateDict, model: str | None, model_args: Mapping[str, Any]) -> ModelSpec:
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
    """What the library makes of a state dict.

    Raises:
        CheckpointError: it does not take it, or has no values for some of its tensors.
    """
    library, problem = library_of(spec), None
    try:
        loaded = library.take(spec, state)
    except Exception as error:  # whatever it trips over
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
    """The arguments of the training script, where the file holds them."""
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
