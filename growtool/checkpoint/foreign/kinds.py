"""What is no model of its own, told by its files: adapters, pipelines of several models, weights for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from growtool.library import libraries

ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
GGUF = ".gguf"


def other_kind(files: Collection[str], fetch: Callable[[str], Path]) -> str | None:
    """What files without a model's weights among them are, what was expected, and what to do; None for a model's.

    Args:
        files: names in a folder or repository.
        fetch: where one of them is.
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
    """The model that an adapter was trained for, where its configuration says so."""
    try:
        name = json.loads(config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        name = None
    return f" of {name}" if isinstance(name, str) and name else ""
