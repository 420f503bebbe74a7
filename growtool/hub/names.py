"""What a user typed for a checkpoint: a path, an address in the hub, or a name that a library of models knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from growtool.library import libraries

LOCAL = "local-dir:"
_HUB = ("hf-hub:", "hf_hub:")
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(f"{_WORD}/{_WORD}")
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl", ".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Address:
    """A repository of the hub, `org/name`, and the branch, tag or commit that is meant of it; None for its default."""

    repository: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """A checkpoint that is named, not found on disk.

    Attributes:
        text: as it was typed.
        word: the same without a prefix and a revision.
        revision: what was typed behind an @.
        in_hub: whether the word is the address of a repository; else a library knows it.
    """

    text: str
    word: str
    revision: str | None
    in_hub: bool

    @property
    def label(self) -> str:
        """What an output is called after."""
        return self.word.rpartition("/")[2]

    @property
    def address(self) -> Address:
        """The repository that the word names."""
        return Address(self.word, self.revision)


def named(text: str, base: Path = Path()) -> Name | None:
    """What `text` names, None where it is the path of a file or folder, be it there or not.

    What exists on disk wins, but over `hf-hub:`. `org/name` is a path where there is a folder `org`.

    Args:
        text: as it was typed; a revision may follow an @.
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
    """A path in words that `named` takes for no name."""
    return f"./{path}" if named(str(path)) else str(path)


def _is_file(word: str) -> bool:
    """Whether it ends as files do; some tags do, too (`beit3_base_patch16_224.pt`)."""
    last = word.rpartition("/")[2]
    return last.endswith(_FILES) and not any(last in library.near(last) for library in libraries())
