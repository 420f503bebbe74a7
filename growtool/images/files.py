"""The files below a folder or in a tar file: listing them, and opening them."""

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
"""The bytes of a file within a tar file: offset and length."""
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""The first bytes of a compressed file -> what opens it."""
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class FolderFiles:
    """The files below a folder; the place of each is its path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __iter__(self) -> Iterator[File[str]]:
        return self._below(str(self.root), "", (os.path.realpath(self.root),))

    def open(self, path: str) -> BinaryIO:
        """Open the file at `path`."""
        return Path(path).open("rb")

    def _below(self, folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[File[str]]:
        """Yield the files below a folder. Links are followed, unless they lead to a folder that they are in.

        Args:
            prefix: the path of `folder` below the root, with a `/` at its end; "" for the root.
            above: real paths of the folders from the root to `folder`.
        """
        with os.scandir(folder) as entries:
            listed = list(entries)  # closes the folder before others are opened
        for entry in listed:
            path = prefix + entry.name
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}{os.sep}{entry.name}"
            if entry.is_dir() and not entry.name.startswith(".") and real not in above:
                yield from self._below(entry.path, f"{path}/", (*above, real))
            else:
                yield File(path, entry.path if entry.is_file() else None)


class TarFiles:
    """The files in a tar file; the place of each is its span of bytes. Tar files inside it count as folders.

    A compressed tar file is decompressed into a temporary file, since images are read in any order. That file is
    removed with this object.

    Attributes:
        unpacked: the file that holds the bytes: `root`, or the temporary file.

    Raises:
        PlanError: `root` is not a tar file, or is damaged.
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

    def __getstate__(self) -> Mapping[str, Any]:
        # For processes that read images: they open files, and never list them.
        return {"root": self.root, "unpacked": self.unpacked, "_files": []}

    def open(self, span: Span) -> BinaryIO:
        """Open the file of a span. Several processes and threads may do so at once."""
        start, size = span
        with self.unpacked.open("rb") as archive:
            archive.seek(start)
            return io.BytesIO(archive.read(size))


def _members(archive: tarfile.TarFile, prefix: str, start: int) -> Iterator[File[Span]]:
    """Yield the files of a tar file, links at the end.

    Args:
        prefix: the path of the tar file within the outer one, with a `/` at its end; "" for the outer one.
        start: offset of its first byte in the outer one.
    """
    spans: dict[str, Span] = {}
    links: list[tuple[str, str]] = []  # path and target of each
    for member in archive:
        path = _normal(member.name)
        span = (start + member.offset_data, member.size)
        if member.isdir():
            continue
        if member.islnk() or member.issym():
            # The target of a symbolic link starts in the folder of the link, that of a hard link in the archive's root.
            base = PurePosixPath(path).parent if member.issym() else PurePosixPath()
            links.append((path, _normal(os.path.normpath(base / member.linkname))))
        elif member.isreg() and not member.issparse():  # the bytes of a sparse file are not one span
            spans[path] = span
            inner = _inner(archive, member, f"{prefix}{path}"[: -len(".tar")] + "/", span[0])
            yield from [File(prefix + path, span)] if inner is None else inner
        else:
            yield File(prefix + path, None)
    targets = dict(links)
    for path, target in links:
        yield File(prefix + path, spans.get(targets.get(target, target)))  # a target may be a link to a file, too


def _inner(archive: tarfile.TarFile, member: tarfile.TarInfo, prefix: str, start: int) -> list[File[Span]] | None:
    """Return the files of a tar file within another; None if `member` is not a tar file. Arguments as in `_members`."""
    if not member.name.lower().endswith(".tar"):
        return None
    try:
        with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
            return list(_members(inner, prefix, start))
    except tarfile.ReadError:  # then it is a file that is no image, which the user is told of
        return None


def _normal(name: str) -> str:
    """Return a path without `.`, and without `/` at its ends or twice: names in tar files may begin with `./`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _unpacked(root: Path, owner: object) -> Path:
    """Return `root`, or if it is compressed a temporary file, which is removed with `owner` in this process."""
    with root.open("rb") as file:
        mark = file.read(max(map(len, _COMPRESSED)))
    unpack = next((opener for begin, opener in _COMPRESSED.items() if mark.startswith(begin)), None)
    if unpack is None:
        return root
    with tempfile.NamedTemporaryFile(prefix="growtool-", suffix=".tar", delete=False) as plain:
        weakref.finalize(owner, _remove, plain.name, os.getpid())  # first, so that it goes if unpacking fails, too
        with unpack(root, "rb") as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
    return Path(plain.name)


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # not when a forked worker ends, which inherits the finalizer
        Path(path).unlink(missing_ok=True)
