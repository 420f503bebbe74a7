"""Finding the file of weights that a path leads to, and advice if there is none that growtool reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from growtool.checkpoint.documents import UNLIKE, WEIGHTS, parse_json
from growtool.checkpoint.foreign.remedy import (
    INDEX_ENDING,
    PICKLE_ENDINGS,
    indices,
    merging,
    shards,
    unpickling,
    weight_files,
)
from growtool.checkpoint.reader import BEST, LAST
from growtool.checkpoint.shards import INDEX
from growtool.errors import CheckpointError, format_names
from growtool.hub.names import spelled
from growtool.library import libraries

ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"


def find_weights(path: Path) -> Path:
    """Return the file of weights that a path leads to, or the index of several.

    Raises:
        CheckpointError: there is none that growtool reads; the message tells what is there instead, and what to do.
    """
    path = path.expanduser()
    if not path.exists():
        raise CheckpointError(_nothing_at(path))
    if path.name.endswith(INDEX_ENDING) and path.name != INDEX:
        _refuse_shards(path, [path])
    if path.is_file():  # one shard, or the weights of an adapter, would be opened as if it were all of a model
        _refuse_shards(path, [index for index in indices(path.parent) if path.name in _listed_in(index)])
        beside = [ADAPTER] if path.name.startswith("adapter") and path.with_name(ADAPTER).is_file() else []
        _refuse_others(path, [path.name, *beside])
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    of_run = [str(path / name) for name in (BEST, LAST) if (path / name / WEIGHTS).is_file()]
    if of_run:
        raise CheckpointError(
            f"{path}: found the run of a training, expected one of its checkpoints; name {' or '.join(of_run)}"
        )
    if (path / INDEX).is_file():
        return path / INDEX
    _refuse_shards(path, indices(path))
    _refuse_others(path, [file.name for file in path.iterdir()])
    held = weight_files(path)
    found = ", ".join(file.name for file in held[:8]) or "no weights at all"
    raise CheckpointError(
        f"{path}: no {WEIGHTS}: found {found}, expected a folder of timm or transformers; {_remedy_of(held)}"
    )


def _nothing_at(path: Path) -> str:
    """Return the message for a path that leads nowhere; one of up to two words may be a misspelled name."""
    finding = (
        f"{spelled(path)}: no such file or folder; expected a .safetensors file or a folder of timm or transformers"
    )
    if len(path.parts) > 2 or path.is_absolute() or path.suffix == ".safetensors":
        return finding
    similar = [name for library in libraries() for name in library.near(path.name)]
    hint = f"; did you mean {format_names(similar)}?" if similar else ""
    return f"{finding}, or a name: a model of timm, or hf-hub:ORG/NAME in the hub{hint}"


def _refuse_shards(path: Path, found: Sequence[Path]) -> None:
    """Check that there are no indices of shards; raise CheckpointError if there are, with lines that merge them."""
    if found:
        raise CheckpointError(
            f"{path}: found a sharded checkpoint, expected one {WEIGHTS}, or shards with {INDEX} in a folder; "
            f"{merging(found[0])}"
        )


def _refuse_others(path: Path, files: Sequence[str]) -> None:
    """Check that files are not those of an adapter, a pipeline or llama.cpp; raise CheckpointError if they are."""
    folder = path.parent if path.is_file() else path
    kind = other_kind(files, folder.joinpath)
    if kind:
        raise CheckpointError(f"{path}: {kind}")


def _remedy_of(held: Sequence[Path]) -> str:
    """Return what to do with a folder of these files of weights, none of which has the name that is looked for."""
    tensors = [file for file in held if file.suffix == ".safetensors"]
    if len(tensors) == 1:
        return f"name the file itself, {tensors[0]}, or rename it to {WEIGHTS}"
    if tensors:
        return f"name one of the files, or rename it to {WEIGHTS}; shards need their *.index.json beside them"
    pickles = [file for file in held if file.suffix in PICKLE_ENDINGS]
    if pickles:
        return f"{pickles[0]} is a PyTorch pickle: {unpickling(pickles[0])}"
    return (
        "write one with `timm.models.save_for_hf(model, folder, safe_serialization=True)`, or `save_pretrained` of "
        "transformers"
    )


def _listed_in(index: Path) -> Sequence[str]:
    """Return the shards that an index lists; none for a file that only has the name of an index."""
    try:
        return shards(index)
    except CheckpointError:
        return ()


def other_kind(files: Collection[str], fetch: Callable[[str], Path]) -> str | None:
    """Return what a folder without a model's weights holds, what was expected, and what to do; None if unknown.

    Args:
        files: names of the files in a folder or repository.
        fetch: returns the path of one of them on disk.
    """
    if ADAPTER in files:
        return (
            f"found an adapter{_base(fetch(ADAPTER))}, expected a whole model; merge it into the model it adapts "
            "(`merge_and_unload` of peft), save that, and grow it"
        )
    expected = f"expected a model of {' or '.join(sorted(library.name for library in libraries()))}"
    if PIPELINE in files:
        return f"found a pipeline of diffusers, {expected}"
    packed = sorted(file for file in files if file.endswith(".gguf"))
    if not packed:
        return None
    return (
        f"found {packed[0]}, which holds weights for llama.cpp, {expected}; name the checkpoint that it was made from"
    )


def _base(config: Path) -> str:
    """Return ` of MODEL` for the model that an adapter was trained for; nothing if its configuration tells none."""
    try:
        name = parse_json(config.read_bytes(), str(config)).get("base_model_name_or_path")
    except (OSError, *UNLIKE):
        name = None
    return f" of {name}" if isinstance(name, str) and name else ""
