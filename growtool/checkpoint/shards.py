"""Weights in several files, called shards; `model.safetensors.index.json` maps each tensor to its shard."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.documents import WEIGHTS
from growtool.checkpoint.foreign.remedy import INDEX_ENDING, require_beside, weight_map
from growtool.checkpoint.header import Header, read_header
from growtool.checkpoint.staging import atomic_file
from growtool.checkpoint.tensors import Stored, TensorInfo
from growtool.checkpoint.writer import write_safetensors
from growtool.errors import CheckpointError, format_names

if TYPE_CHECKING:
    import torch

INDEX, SHARDS = f"{WEIGHTS}{INDEX_ENDING}", "model-*-of-*.safetensors"


def read_shards(index: Path, header_of: Callable[[Path], Header] | None = None) -> tuple[Header, dict[str, Path]]:
    """Return the tensors and the metadata of all shards, and the file of each tensor.

    Args:
        index: the file that lists the shards.
        header_of: reads the header of a shard, as `read_header` does; None if the shards are on disk beside the index.

    Raises:
        CheckpointError: the index is damaged, a shard is missing or damaged, or lacks a tensor that the index promises.
    """
    file_of = weight_map(index)
    files = {name: index.parent / name for name in sorted(set(file_of.values()))}
    if header_of is None:
        require_beside(index, list(files))
    headers = {name: (header_of or read_header)(path) for name, path in files.items()}
    astray = [name for name, file in file_of.items() if name not in headers[file].tensors]
    if astray:
        raise CheckpointError(
            f"{index}: says that {file_of[astray[0]]} holds {format_names(astray, 4)}, and it does not; copy or "
            "download the index and its shards again"
        )
    infos = {name: headers[file].tensors[name] for name, file in file_of.items()}
    metadata = {key: value for header in headers.values() for key, value in header.metadata.items()}
    return Header(infos, metadata), {name: files[file] for name, file in file_of.items()}


def write_shards(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Iterator[torch.Tensor | Stored],
    metadata: Mapping[str, str],
    limit: str,
) -> None:
    """Write `tensors` into shards of at most `limit` bytes as huggingface_hub cuts them, and their index.

    A tensor of more than `limit` bytes has a shard for itself. If one file holds all, it has no index.

    Args:
        folder: where the files appear.
        tensors: shape and type of every tensor, in the order of the files.
        produce: yields the tensors in this order.
        metadata: strings for the header of each file.
        limit: bytes as users write them, such as `5GB`.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    # Meta tensors have the sizes that the split goes by.
    cut: Any = split_torch_state_dict_into_shards(
        {name: info.empty() for name, info in tensors.items()}, max_shard_size=limit
    )
    for file, names in cut.filename_to_tensors.items():
        held = {name: tensors[name] for name in names}
        write_safetensors(folder / file, held, itertools.islice(produce, len(names)), metadata, order=names)
    if cut.is_sharded:
        content = {"metadata": cut.metadata, "weight_map": dict(sorted(cut.tensor_to_filename.items()))}
        with atomic_file(folder / INDEX) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
