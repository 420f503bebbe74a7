"""Names of checkpoints as users type them: a path, an address in the hub, or a name that a library of models knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from growtool.library import libraries

LOCAL = "local-dir:"
_HUB = ("hf-hub:", "hf_hub:")
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(f"{_WORD}/{_WORD}")
# Endings of words that are paths, even where there is no such file: a mistake in one is told as a missing file.
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Address:
    """A repository of the hub, and one of its branches, tags or commits; None for its default branch.

    Attributes:
        text: what the user typed, for messages.
        repository: `org/name`.
    """

    text: str
    repository: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A name of a checkpoint that is no path.

    Attributes:
        text: the name as it was typed.
        word: the name without a prefix and a revision.
        revision: the revision that was typed after an @, if any.
        in_hub: whether the word is a repository of the hub; else a library knows it.
    """

    text: str
    word: str
    revision: str | None
    in_hub: bool

    @property
    def label(self) -> str:
        """Return the last part of the word, after which outputs are named."""
        return self.word.rpartition("/")[2]

    @property
    def address(self) -> Address:
        """Return the repository and the revision of a name in the hub."""
        return Address(self.text, self.word, self.revision)


def named(text: str, base: Path = Path()) -> Name | None:
    """Return the name that a text is, or None if it is a path, whether or not something lies there.

    A text without `hf-hub:` is a path if something lies there, and `org/name` also if there is a folder `org`.

    Args:
        text: the text as it was typed; a revision may follow an @.
        base: the folder that paths are relative to.
    """
    prefix = next((prefix for prefix in _HUB if text.startswith(prefix)), "")
    word, _, revision = text.removeprefix(prefix).partition("@")
    name = Name(text, word, revision or None, in_hub=True)
    if prefix:
        return name
    if text.startswith((LOCAL, ".", "~", "/")) or _is_file(word) or (base / text).exists():
        return None
    if _ADDRESS.fullmatch(word):
        return None if (base / word).parent.is_dir() else name
    if not re.fullmatch(_WORD, word) or not any(library.knows(word) for library in libraries()):
        return None
    return Name(text, word, revision or None, in_hub=False)


def spelled(path: Path) -> str:
    """Return a path in a spelling that `named` does not take for a name."""
    return f"./{path}" if named(str(path)) else str(path)


def _is_file(word: str) -> bool:
    """Return whether a word ends as files do, unless a library has that name (`beit3_base_patch16_224.pt`)."""
    last = word.rpartition("/")[2]
    return last.endswith(_FILES) and not any(last in library.near(last) for library in libraries())
