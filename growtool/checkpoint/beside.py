"""The files beside the weights of a checkpoint: growtool's own, those of the model's library, and the model card."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from growtool.checkpoint.documents import CONFIG, WEIGHTS
from growtool.library import library_of

if TYPE_CHECKING:
    from growtool.checkpoint.reader import Checkpoint
    from growtool.library import ModelSpec

REPORT, CARD, PLAN, PICTURE = "growth.json", "README.md", "plan.yaml", "growth.svg"
TRAINING = "training.json"
OPTIMIZER, OPTIMIZER_TENSORS = "optimizer.json", "optimizer.safetensors"
STATE, EMA, RAW = "state.json", "ema.safetensors", "raw.safetensors"
OWN_FILES = frozenset(
    {WEIGHTS, CONFIG, REPORT, CARD, PLAN, PICTURE, TRAINING, OPTIMIZER, OPTIMIZER_TENSORS, STATE, EMA, RAW}
)

_SECTION = "\n## Template form\n"
_NOTE = (
    "The weights are stored as templates and coefficients. `growtool export` writes the folder that "
    "`timm.create_model` loads.\n"
)


def companions(source: Checkpoint) -> dict[str, Path]:
    """Return the files that go along with a grown checkpoint, such as those of a tokenizer, by their names."""
    folder = source.path.parent
    if source.folder is None:
        return {}
    found = (path for pattern in library_of(source.spec).beside for path in folder.glob(pattern) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path for name, path in sorted(names.items()) if name not in OWN_FILES}


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether the name of a file matches one of the patterns, such as `tokenizer*` or `templates/*`."""
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def documents_beside(source: Checkpoint, names: Iterable[str]) -> dict[str, str]:
    """Return the text of a checkpoint's card, its picture and its files `names`, by name, as far as they are there.

    A checkpoint without a card gets a plain one.
    """
    folder = source.path.parent
    found = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in (CARD, PICTURE, *names)
        if source.folder is not None and (folder / name).is_file()
    }
    return {CARD: plain_card(source.spec)} | found


def plain_card(spec: ModelSpec) -> str:
    """Return a model card with the least that a hub wants to know."""
    return f"---\nlibrary_name: {library_of(spec).name}\n---\n# {spec.architecture}\n"


def card_of_form(card: str, *, in_templates: bool) -> str:
    """Return a card with a section on template form, or without it, whether or not `card` has one."""
    text = card.split(_SECTION)[0].rstrip("\n") + "\n"
    return f"{text}{_SECTION}\n{_NOTE}" if in_templates else text
