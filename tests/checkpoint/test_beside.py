"""What goes on beside growing: bytes reach the disk, and the source is hashed."""

import errno
import hashlib
import os
import subprocess
import sys
import threading

import pytest
import torch

from growtool.checkpoint import hashing, infos_of, write_safetensors, writer
from growtool.checkpoint.hashing import hash_ahead, sha256_of

STATE = {name: torch.full((64,), float(n)) for n, name in enumerate("abcdef")}


def write(path):
    write_safetensors(path, infos_of(STATE), STATE.__getitem__, {})


def test_the_disk_takes_bytes_while_others_are_made(tmp_path, monkeypatch):
    write(tmp_path / "whole.safetensors")
    monkeypatch.setattr(writer, "SYNCED", 256)
    found, sync = [], os.fsync

    def noted(descriptor):
        found.append((os.fstat(descriptor).st_size, threading.current_thread() is threading.main_thread()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write(tmp_path / "out.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "out.safetensors").read_bytes() == whole
    sizes, waited = zip(*found, strict=True)
    assert sizes[0] < len(whole) == sizes[-1] and waited.count(True) == 1 and waited[-1]


def test_what_the_disk_refuses_early_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    """The system tells a failure once by file: the last sync succeeds."""
    monkeypatch.setattr(writer, "SYNCED", 256)

    def refused(descriptor):
        if threading.current_thread() is not threading.main_thread():
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_is_hashed_once_and_anew_once_it_has_changed(tmp_path, monkeypatch):
    path, begun, sha256 = tmp_path / "file", [], hashlib.sha256

    def counted():
        begun.append(path)
        return sha256()

    monkeypatch.setattr(hashing.hashlib, "sha256", counted)
    path.write_bytes(b"one")
    hash_ahead([path])
    assert sha256_of(path) == sha256_of(path) == sha256(b"one").hexdigest()
    path.write_bytes(b"another")
    assert sha256_of(path) == sha256(b"another").hexdigest() and len(begun) == 2


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 3 * 4096])
def test_a_file_is_hashed_part_by_part(tmp_path, monkeypatch, size):
    monkeypatch.setattr(hashing, "PART", 4096)
    content = bytes(n % 251 for n in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_that_cannot_be_read_is_asked_for_again(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        sha256_of(path)
    with pytest.raises(IsADirectoryError):
        sha256_of(path)
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "missing")


def test_a_file_that_is_cut_short_meanwhile_is_told(tmp_path, monkeypatch):
    """Whoever asks must not wait for ever."""
    path, size = tmp_path / "file", os.fstat

    def of_what_is_cut_short(descriptor):
        found = size(descriptor)
        os.truncate(path, 1)
        return found

    path.write_bytes(b"one")
    monkeypatch.setattr(hashing.os, "fstat", of_what_is_cut_short)
    with pytest.raises(OSError, match="became shorter while it was read"):
        sha256_of(path)


def test_a_process_does_not_wait_for_what_nobody_asks_for(tmp_path):
    """Of a pipe that nobody writes to there would be no end."""
    os.mkfifo(tmp_path / "pipe")
    code = "import pathlib; from growtool.checkpoint.hashing import hash_ahead; hash_ahead([pathlib.Path('pipe')])"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
