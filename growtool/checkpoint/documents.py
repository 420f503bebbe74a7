"""JSON that lies on disk: read with its place in every message, or refused; the `config.json` of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from growtool.errors import CheckpointError, GrowtoolError
from growtool.library import ModelSpec, spec_from

CONFIG = "config.json"
SPEC_KEY = "growtool.spec"  # metadata of a lone file that carries its own config.json

T = TypeVar("T")
UNLIKE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What code trips over where a document is not built as it should be."""


def parse_json(text: str | bytes, where: str, remedy: str = "restore the file") -> Any:
    """The content of a JSON document.

    Args:
        text: of the document.
        where: it stands; errors begin with it.
        remedy: what to do about one that cannot be read.

    Raises:
        CheckpointError: it is not JSON, is nested too deeply, or holds what is not text.
    """
    try:
        content = json.loads(text)
        if "\\u" in (text if isinstance(text, str) else text.decode()):  # may be half of a character, in no file since
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except RecursionError as error:
        raise CheckpointError(f"{where}: not JSON that can be read: nested too deeply; {remedy}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where}:{error.lineno}:{error.colno}: not JSON: {error.msg}; {remedy}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where}: not JSON: not UTF-8 at byte {error.start}; {remedy}") from error
    except ValueError as error:  # halves of characters, numbers of thousands of digits
        raise CheckpointError(f"{where}: not JSON that can be read: {error}; {remedy}") from error


def read_document(path: Path, read: Callable[[Any], T], *, expected: str, what: str = "") -> T:
    """What `read` makes of the JSON document at `path`.

    Args:
        path: of the document.
        read: from the content; raises one of `UNLIKE` where that is not what it should be.
        expected: what should have been there, and what to do.
        what: the document is, for the message; by default its path.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        return read(parse_json(path.read_bytes(), str(path)))
    except (OSError, *UNLIKE) as error:
        if isinstance(error, GrowtoolError) and not what:
            raise
        found = str(error) if isinstance(error, GrowtoolError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what or path}: cannot be read ({found}), expected {expected}") from error


def spec_beside(path: Path) -> ModelSpec | None:
    """What the `config.json` beside a file of weights says of its model; None without one.

    Raises:
        CheckpointError: it is damaged.
    """
    config, where = find_config(path, {})
    return spec_from(config, where=where) if where else None


def find_config(weights: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """The content of `config.json` and the place it was found in; ({}, "") where there is none."""
    beside = weights.parent / CONFIG
    text: str | bytes
    if SPEC_KEY in metadata:
        text, where = metadata[SPEC_KEY], f"{weights}: metadata {SPEC_KEY}"
    elif beside.is_file():
        text, where = beside.read_bytes(), str(beside)
    else:
        return {}, ""
    config = parse_json(text, where)
    if not isinstance(config, dict):
        raise CheckpointError(f"{where}: found {type(config).__name__}, expected a JSON object as timm writes it")
    return config, where
