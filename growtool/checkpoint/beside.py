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


def companions(source: Checkpoint) -> list[Path]:
    """Return the files beside a checkpoint that go along with a grown one, such as those of a tokenizer."""
    folder, patterns = source.path.parent, library_of(source.spec).beside
    if source.folder is None or not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.name not in OWN_FILES and path.is_file() and matches(path.name, patterns)
    )


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether the name of a file matches one of the patterns, such as `tokenizer*`."""
    return any(fnmatch(name, pattern) for pattern in patterns)


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
