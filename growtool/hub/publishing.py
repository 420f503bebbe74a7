"""How a checkpoint that was written gets into the hub."""

from __future__ import annotations

import shlex
from pathlib import Path


def publishing_line(path: Path) -> str:
    """The command that uploads a folder, or a single file under the name that weights have there."""
    named = path.resolve()
    if path.suffix == ".safetensors":
        return shlex.join(["hf", "upload", f"YOUR-NAME/{named.stem}", str(path), "model.safetensors"])
    return shlex.join(["hf", "upload", f"YOUR-NAME/{named.name}", str(path)])
