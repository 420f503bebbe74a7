"""One edit of one file of a case, decided by its kind and a number, so that a case can be told in a few words."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from .images import edit_folder
from .texts import edit_bytes, edit_text
from .trees import JUNK, edit

WORDS = "words"  # where a mutation is of the command line
LABELS: tuple[Any, ...] = (
    [], ["a"], ["a", "a", "b"], ["blue", "green", "red", "x"], [1, 2, 3], [None] * 3, "blue",
    {"0": "a", "1": "b", "2": "c"}, {"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 0, "c": 0}, {"0": "a"},
    ["red", "green", "blue"], ["", "", ""], [["a"], ["b"], ["c"]], 3, True,
    {"0": ["a"], "1": {}, "2": None}, ["\ud800", "b", "c"], ["e\u0301", "é", "c"],
    {"a": True, "b": False, "c": None}, {"x": "a", "1": "b"},
)  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """Attributes:

    kind: a key of `KINDS`, or `words`.
    path: of the file or folder, from the folder of the case; the command's words have none.
    number: decides the edit.
    """

    kind: str
    path: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.path} {self.number}".replace("  ", " ")


def apply(mutation: Mutation, root: Path) -> None:
    """Edit the file in `root`; what an earlier edit has made unreadable is damaged as bytes."""
    path, random = root / mutation.path, Random(mutation.number)
    if mutation.kind == "images":
        if path.is_dir():
            edit_folder(path, random)
    elif path.is_file():
        data = path.read_bytes()
        try:
            changed = KINDS[mutation.kind](data, random)
        except (ValueError, TypeError, AttributeError, KeyError, struct.error, RecursionError, yaml.YAMLError):
            changed = edit_bytes(data, random)
        path.write_bytes(changed)


def _json(data: bytes, random: Random) -> bytes:
    return _dumped(edit(json.loads(data), random), random)


def _labels(data: bytes, random: Random) -> bytes:
    config, names = json.loads(data), random.choice(LABELS)
    where = random.choice([config, config["pretrained_cfg"]])
    return _dumped({**config, "label_names": names} if where is config else _put(config, "label_names", names), random)


def _put(config: Any, key: str, value: Any) -> Any:
    del config["label_names"]
    return {**config, "pretrained_cfg": {**config["pretrained_cfg"], key: value}}


def _dumped(content: Any, random: Random) -> bytes:
    text = json.dumps(content, ensure_ascii=random.random() < 0.9).encode(errors="surrogatepass")
    if random.random() < 0.05 and text.startswith(b'{"'):  # a key twice
        text = b'{"architecture": ' + json.dumps(random.choice(JUNK)).encode() + b", " + text[1:]
    return text


def _yaml(data: bytes, random: Random) -> bytes:
    return yaml.safe_dump(edit(yaml.safe_load(data), random), allow_unicode=True).encode(errors="surrogatepass")


def _header(data: bytes, random: Random) -> bytes:
    """A safetensors file with another header in front of the same data."""
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    what = random.choice("tree tree entry entry metadata rename length".split())
    names = [name for name in header if name != "__metadata__"]
    if not names:  # another mutation was here before
        return data
    name = random.choice(names)
    if what == "entry":
        header[name][random.choice(["dtype", "shape", "data_offsets"])] = random.choice(JUNK)
    elif what == "metadata":
        header["__metadata__"] = random.choice(JUNK) if random.random() < 0.5 else _metadata(header, random)
    elif what == "rename":
        header[random.choice([f"module.{name}", "", "\ud800", f"{name}\x00", random.choice(names)])] = header.pop(name)
    else:
        header = edit(header, random)
    text = json.dumps(header).encode()
    if what == "length":
        length = random.choice([0, 1, length - 1, length + 1, len(data), 2**63, 10**8])
        return struct.pack("<Q", length) + text + rest
    return struct.pack("<Q", len(text)) + text + rest


def _metadata(header: Any, random: Random) -> Any:
    """The strings of the metadata edited as the documents that some of them are."""
    held = dict(header.get("__metadata__") or {"format": "pt"})
    key = random.choice(list(held))
    try:
        held[key] = json.dumps(edit(json.loads(held[key]), random))
    except ValueError:
        held[key] = random.choice(["", "tf", "\x00", "{}"])
    return held


KINDS = {
    "bytes": edit_bytes,
    "text": edit_text,
    "json": _json,
    "labels": _labels,
    "yaml": _yaml,
    "header": _header,
}


def edit_words(words: list[str], random: Random) -> list[str]:
    """The command line with one option changed, gone, twice or new; the command and what it is to write stay."""
    odd = ["", "0", "-1", "1", "nan", "inf", "1e400", "99999999999999999999", "a", ".", "absent", "\udcff",
           "[bold]", "x=y", "=", "{}", "[1", "4/0", "4/3", "1,2", "2,2,2,2", "-o", "--",
           "--json", "--force", "--quiet", "--debugger", "ß"]  # fmt: skip
    free = [n for n in range(1, len(words)) if words[n] != "-o" and words[n - 1] != "-o"]
    at = random.choice(free) if free else len(words)
    what = random.choice("replace replace drop insert twice json".split())
    if what == "replace" and free:
        return [*words[:at], random.choice(odd), *words[at + 1 :]]
    if what == "drop" and free:
        return [*words[:at], *words[at + 1 :]]
    if what == "twice":
        return [*words[: at + 1], *words[at : at + 1], *words[at + 1 :]]
    return [*words[:at], random.choice(odd) if what == "insert" else "--json", *words[at:]]
