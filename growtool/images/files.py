"""The files below a folder and in a tar file, and opening them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from growtool.errors import PlanError
from growtool.images.listing import LAYOUT, File

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
Span = tuple[int, int]
"""Where the bytes of a file begin in a tar file, and how many there are."""
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class FolderFiles:
    """Files below a folder, by their paths."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __iter__(self) -> Iterator[File[str]]:
        return self._below(str(self.root), "", (os.path.realpath(self.root),))

    def open(self, path: str) -> BinaryIO:
        """Open a file."""
        return Path(path).open("rb")

    def _below(self, folder: str, way: str, above: tuple[str, ...]) -> Iterator[File[str]]:
        """Those in a folder; links are followed, except to a folder they lie in."""
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            path = way + entry.name
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}{os.sep}{entry.name}"
            if entry.is_dir() and not entry.name.startswith(".") and real not in above:
                yield from self._below(entry.path, f"{path}/", (*above, real))
            else:
                yield File(path, entry.path if entry.is_file() else None)


class TarFiles:
    """Files in a tar file, by where their bytes are; tar files in it are taken as folders.

    A compressed one is unpacked to a temporary file, as images are not read in their order.

    Raises:
        PlanError: it is no tar file, or damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self.unpacked = _unpacked(root, self)
            with tarfile.open(self.unpacked, "r:") as archive:
                self._files = list(_members(archive, "", 0))
        except _DAMAGED as error:
            found = str(error).splitlines() or [type(error).__name__]
            raise PlanError(f"{root}: cannot be read as a tar file ({found[0]}); restore it, or {LAYOUT}") from error

    def __iter__(self) -> Iterator[File[Span]]:
        return iter(self._files)

    def __getstate__(self) -> Mapping[str, Any]:  # for other processes, which list nothing
        return {"root": self.root, "unpacked": self.unpacked, "_files": []}

    def open(self, span: Span) -> BinaryIO:
        """Open a file; processes and threads may do so at once."""
        start, size = span
        with self.unpacked.open("rb") as archive:
            archive.seek(start)
            return io.BytesIO(archive.read(size))


def _members(archive: tarfile.TarFile, way: str, start: int) -> Iterator[File[Span]]:
    """The files of an archive whose first byte is at `start` of the file it lies in."""
    held: dict[str, Span] = {}
    links: list[tuple[str, str]] = []
    for member in archive:
        path = _normal(member.name)
        span = (start + member.offset_data, member.size)
        if member.isdir():
            continue
        if member.islnk() or member.issym():
            beside = PurePosixPath(path).parent if member.issym() else PurePosixPath()
            links.append((path, _normal(os.path.normpath(beside / member.linkname))))
        elif member.isreg() and not member.issparse():
            held[path] = span
            inner = _inner(archive, member, f"{way}{path}"[: -len(".tar")] + "/", span[0])
            yield from [File(way + path, span)] if inner is None else inner
        else:
            yield File(way + path, None)
    targets = dict(links)
    for path, target in links:
        yield File(way + path, held.get(targets.get(target, target)))


def _inner(archive: tarfile.TarFile, member: tarfile.TarInfo, way: str, start: int) -> list[File[Span]] | None:
    """The files of a tar file within another; None where it is none."""
    if not member.name.lower().endswith(".tar"):
        return None
    try:
        with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
            return list(_members(inner, way, start))
    except tarfile.ReadError:  # told as a file that is left out
        return None


def _normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _unpacked(root: Path, owner: object) -> Path:
    """`root`, or where it is compressed a temporary file, there for as long as `owner` in this process."""
    with root.open("rb") as file:
        mark = file.read(6)
    unpack = next((opener for begins, opener in _COMPRESSED.items() if mark.startswith(begins)), None)
    if unpack is None:
        return root
    with tempfile.NamedTemporaryFile(prefix="growtool-", suffix=".tar", delete=False) as plain:
        weakref.finalize(owner, _remove, plain.name, os.getpid())
        with unpack(root, "rb") as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
    return Path(plain.name)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # a worker that ends leaves it to the others
        Path(path).unlink(missing_ok=True)
