"""What a check found, written as it comes: `report.json`, and the same as `report.md`."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch


class Skip(Exception):
    """A check that cannot be made here, and why."""


@dataclass(frozen=True)
class Entry:
    """One check.

    Attributes:
        part: letter of the part it belongs to.
        name: of the check.
        status: `passed`, `failed` or `skipped`.
        found: what was measured, why it failed, or why it was skipped.
        seconds: it took.
    """

    part: str
    name: str
    status: str
    found: str
    seconds: float


class Report:
    """Both files in a folder, complete after every entry."""

    def __init__(self, folder: Path, device: torch.device, *, tiny: bool) -> None:
        self.folder, self.entries = folder, list[Entry]()
        cuda = device.type == "cuda"
        self._head = {
            "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({platform.machine()})",
            "tiny": tiny,
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "versions": {
                "python": platform.python_version(),
                "cuda": torch.version.cuda,
                **{name: version(name) for name in ("torch", "timm", "safetensors")},
            },
        }
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def failed(self) -> list[Entry]:
        """What is not as it should be."""
        return [entry for entry in self.entries if entry.status == "failed"]

    def add(self, entry: Entry) -> None:
        """Take it in and write everything."""
        self.entries.append(entry)
        content = {**self._head, "checks": [asdict(entry) for entry in self.entries]}
        (self.folder / "report.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        versions = ", ".join(f"{name} {number}" for name, number in self._head["versions"].items())
        lines = [
            f"# growtool on {self._head['device']}{', tiny models' if self._head['tiny'] else ''}",
            "",
            f"{self._head['date']}; {versions}",
            "",
            "| part | check | | found | s |",
            "| --- | --- | --- | --- | ---: |",
            *(f"| {e.part} | {e.name} | {e.status} | {_cell(e.found)} | {e.seconds:.1f} |" for e in self.entries),
        ]
        (self.folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
