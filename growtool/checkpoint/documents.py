"""JSON documents on disk, read with their place in every message; the `config.json` of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from growtool.errors import CheckpointError, GrowtoolError
from growtool.library import ModelSpec, spec_from

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SPEC_KEY = "growtool.spec"  # metadata of a lone file that carries its own config.json

T = TypeVar("T")
UNLIKE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""The exceptions that code raises on a document which is not built as the code expects."""


def parse_json(text: str | bytes, where: str, remedy: str = "restore the file") -> Any:
    """Return the content of a JSON document.

    Args:
        text: the document.
        where: the place it was read from; errors begin with it.
        remedy: what the user should do about a document that cannot be read.

    Raises:
        CheckpointError: the document is not JSON, is nested too deeply, or holds a string that is not valid Unicode.
    """
    try:
        content = json.loads(text)
        # An escape such as \ud800 is half of a surrogate pair, which json takes and no file can be written with.
        if "\\u" in (text if isinstance(text, str) else text.decode()):
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
    """Read the JSON document at `path`, and return what `read` makes of its content.

    Args:
        path: the document.
        read: turns the content into the result; raises one of `UNLIKE` if the content is not what it should be.
        expected: what should have been there and what to do, for the message.
        what: the name of the document, for the message; its path by default.

    Raises:
        CheckpointError: the document cannot be read, or its content is something else.
    """
    try:
        return read(parse_json(path.read_bytes(), str(path)))
    except (OSError, *UNLIKE) as error:  # a GrowtoolError is a ValueError
        if isinstance(error, GrowtoolError) and not what:
            raise
        found = str(error) if isinstance(error, GrowtoolError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{what or path}: cannot be read ({found}), expected {expected}") from error


def spec_beside(path: Path) -> ModelSpec | None:
    """Return the model that the `config.json` beside a file of weights describes; None without such a file.

    Raises:
        CheckpointError: the `config.json` is damaged.
    """
    config, where = find_config(path, {})
    return spec_from(config, where=where) if where else None


def find_config(weights: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return the config of a file of weights, and the place it was found in; ({}, "") if there is none.

    The metadata of the file come before a `config.json` beside it.

    Raises:
        CheckpointError: the config is damaged.
    """
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
