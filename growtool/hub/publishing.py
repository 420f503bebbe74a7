"""Uploading a written checkpoint to the hub."""

from __future__ import annotations

import shlex
from pathlib import Path


def publishing_line(path: Path) -> str:
    """Return the command that uploads a folder, or a single file as the `model.safetensors` of a repository."""
    named = path.resolve()  # `.` has no name
    if path.suffix == ".safetensors":
        return shlex.join(["hf", "upload", f"YOUR-NAME/{named.stem}", str(path), "model.safetensors"])
    return shlex.join(["hf", "upload", f"YOUR-NAME/{named.name}", str(path)])
