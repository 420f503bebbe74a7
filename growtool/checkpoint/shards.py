"""Weights in several files: `model.safetensors.index.json` says which tensor is in which of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growtool.checkpoint.foreign.remedy import INDEX_ENDING, weight_map
from growtool.checkpoint.header import Header, read_header
from growtool.checkpoint.staging import atomic_file
from growtool.checkpoint.tensors import Stored, TensorInfo
from growtool.checkpoint.writer import write_safetensors
from growtool.errors import CheckpointError, format_names

if TYPE_CHECKING:
    import torch

Told = tuple[Mapping[str, TensorInfo], Mapping[str, str]]
"""Tensors and metadata of a header."""
INDEX, SHARDS = f"model.safetensors{INDEX_ENDING}", "model-*-of-*.safetensors"


def read_shards(
    index: Path, header_of: Callable[[Path], Told] | None = None
) -> tuple[dict[str, TensorInfo], dict[str, str], dict[str, Path]]:
    """The tensors of all shards, what their headers say beside, and the file of each tensor.

    Args:
        index: the file that lists them.
        header_of: reads the header of a shard, as `read_header` does; None where the shards are beside the index.

    Raises:
        CheckpointError: the index is none, a shard is not there or is damaged, or one does not hold what it should.
    """
    told = weight_map(index)
    files = {name: index.parent / name for name in sorted(set(told.values()))}
    lacking = [name for name, path in files.items() if header_of is None and not path.is_file()]
    if lacking:
        raise CheckpointError(
            f"{index}: lists {len(files)} shards, and {len(lacking)} of them are not beside it "
            f"({format_names(lacking, 4)}); copy or download them, too"
        )
    headers = {name: (header_of or read_header)(path) for name, path in files.items()}
    astray = [name for name, file in told.items() if name not in headers[file][0]]
    if astray:
        raise CheckpointError(
            f"{index}: says that {told[astray[0]]} holds {format_names(astray, 4)}, and it does not; copy or download "
            "the index and its shards again"
        )
    infos = {name: headers[file][0][name] for name, file in told.items()}
    metadata = {key: value for _, said in headers.values() for key, value in said.items()}
    return infos, metadata, {name: files[file] for name, file in told.items()}


def starts(header: Header) -> dict[str, int]:
    """Where each tensor of a file begins."""
    return {name: header.start + begin for name, (begin, _) in header.offsets.items()}


def write_shards(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Iterator[torch.Tensor | Stored],
    metadata: Mapping[str, str],
    order: Sequence[str],
    limit: str,
) -> None:
    """Write `tensors` into files of at most `limit` bytes each, as huggingface_hub cuts them; one needs no index.

    Args:
        folder: where they appear.
        tensors: every tensor by name.
        produce: the tensors in `order`.
        metadata: strings for the header of each file.
        order: of the tensors.
        limit: as users write it, `5GB`.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    cut: Any = split_torch_state_dict_into_shards({name: tensors[name].empty() for name in order}, max_shard_size=limit)
    for file, names in cut.filename_to_tensors.items():
        held = {name: tensors[name] for name in names}
        write_safetensors(folder / file, held, itertools.islice(produce, len(names)), metadata, order=names)
    if cut.is_sharded:
        content = {"metadata": cut.metadata, "weight_map": dict(sorted(cut.tensor_to_filename.items()))}
        with atomic_file(folder / INDEX) as file:
            file.write((json.dumps(content, indent=2) + "\n").encode())
