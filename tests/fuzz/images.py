"""Edits of a folder of images: classes, files, links and names as people leave them behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from pathlib import Path
from random import Random

from PIL import Image

from .texts import edit_bytes

ODD_NAMES = (
    "a b", "ß", "a\nb", "[bold]", "[b", ".hidden", "-o", "x" * 200, "\N{COMBINING ACUTE ACCENT}e", "%s", "10", "1",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", "A", "train", "a.png", "\x1b[31m",
)  # fmt: skip
ENDINGS = (".txt", ".PNG", ".gif", ".webp", ".tiff", ".jpg", ".bmp", "", ".png.png", ".safetensors", ".tar", ".parquet")
MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV")


def edit_folder(root: Path, random: Random) -> None:
    """One change to the image folder `root`, that of a class or of one file."""
    folders = sorted(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    changes = (_of_a_class, _of_a_file, _of_a_file, _new) if folders and files else (_new,)
    with contextlib.suppress(OSError):  # such as a name that is taken
        random.choice(changes)(root, folders, files, random)


def _of_a_class(root: Path, folders: list[Path], files: list[Path], random: Random) -> None:
    folder = random.choice(folders)
    what = random.choice("empty remove rename nest file link".split())
    if what == "rename":
        folder.rename(folder.with_name(_odd_name(random)))
        return
    if what == "nest":
        inner = folder / _odd_name(random)
        inner.mkdir(exist_ok=True)
        for path in list(folder.iterdir())[:1]:
            if path != inner:
                path.rename(inner / path.name)
        return
    shutil.rmtree(folder)
    if what == "empty":
        folder.mkdir()
    elif what == "file":
        folder.write_bytes(random.randbytes(20))
    elif what == "link":
        folder.symlink_to(random.choice([".", "..", "absent", folder.name]))


def _of_a_file(root: Path, folders: list[Path], files: list[Path], random: Random) -> None:
    path = random.choice(files)
    what = random.choice("damage damage ending rename mode mode size folder link remove bomb fifo".split())
    if what == "damage":
        path.write_bytes(edit_bytes(path.read_bytes(), random))
    elif what == "ending":
        path.rename(path.with_suffix(random.choice(ENDINGS)))
    elif what == "rename":
        path.rename(path.with_name(_odd_name(random) + path.suffix))
    elif what == "mode":
        mode = random.choice(MODES)
        Image.new(mode, (9, 7)).save(path, format="TIFF" if mode in ("CMYK", "F", "I", "YCbCr", "HSV") else "PNG") if (
            mode != "HSV"
        ) else Image.new("RGB", (1, 1)).save(path, format="GIF")
    elif what == "size":
        Image.new("RGB", random.choice([(1, 1), (1, 900), (900, 1), (2, 2)])).save(path, format="PNG")
    elif what == "bomb":
        path.write_bytes(_claims(random.choice([1, 20_000, 2**31 - 1])))
    else:
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what == "link":
            path.symlink_to(random.choice(["absent.png", path.name, "..", "/dev/null"]))
        elif what == "fifo":
            os.mkfifo(path)


def _new(root: Path, folders: list[Path], files: list[Path], random: Random) -> None:
    place = random.choice([root, *folders])
    path = place / (_odd_name(random) + random.choice(ENDINGS))
    if random.random() < 0.5 or not files:
        path.write_bytes(random.randbytes(random.choice([0, 10, 1000])))
    elif not path.exists():
        shutil.copyfile(random.choice(files), path)


def _odd_name(random: Random) -> str:
    name = random.choice(ODD_NAMES)
    return os.fsdecode(b"a\xff") if name == "%s" else name


def _claims(side: int) -> bytes:
    """A PNG that says it has `side` columns and rows, and has no pixels."""
    import zlib

    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
