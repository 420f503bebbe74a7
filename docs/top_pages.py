"""Pages of the repository's top become pages of the site: README.md its first, the others under their names.

Links lead from where a page stands in the repository, so that they work there; here they are turned to where the pages
stand on the site. mkdocs.yml names this file as a hook.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
TOP = (
    {"README.md": "index.md"}
    | {f"{name}.md": f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "UPGRADING", "SECURITY", "CODE_OF_CONDUCT")}
    | {"CITATION.cff": "CITATION.cff"}
)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top."""
    for name, place in TOP.items():
        files.append(File.generated(config, place, content=turned((ROOT / name).read_text(encoding="utf-8"), name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page of `docs/`."""
    place = page.file.src_uri
    return markdown if place in TOP.values() else turned(markdown, f"docs/{place}")


def turned(markdown: str, page: str) -> str:
    """The text with its links led from where `page`, a path in the repository, stands on the site."""
    start = PurePosixPath(place_of(page)).parent

    def link(found: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(page).parent / found[1])
        return os.path.relpath(place_of(target), start)

    return _LINK.sub(link, markdown)


def place_of(path: str) -> str:
    """Where a file of the repository stands on the site; one that does not stand there leads nowhere, and is told."""
    return TOP.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}")
