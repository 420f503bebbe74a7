"""Folders that hold no model of their own, told by their files: adapters, pipelines, weights for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from growtool.library import libraries

ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
GGUF = ".gguf"


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
    packed = sorted(file for file in files if file.endswith(GGUF))
    if not packed:
        return None
    return (
        f"found {packed[0]}, which holds weights for llama.cpp, {expected}; name the checkpoint that it was made from"
    )


def _base(config: Path) -> str:
    """Return ` of MODEL` for the model that an adapter was trained for; nothing if its configuration tells none."""
    try:
        name = json.loads(config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        name = None
    return f" of {name}" if isinstance(name, str) and name else ""
