"""Every command of README.md and docs/tutorial.md runs, in the order of the page, and prints what the page shows.

Training is cut to one epoch, in this process; a published name is looked at without its weights.
"""

import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.finetune import UNCLOSED_IMAGES
from tests.support.models import Tiny, write_folder
from tests.support.rooms import ROOT

pytestmark = UNCLOSED_IMAGES
_BLOCK = re.compile(
    r"^```(\w+)(?: title=\"(\S+)\")?\n(.*?)^```|(?<=\n\n)((?:^ {4}[^\n]*\n)+)", re.MULTILINE | re.DOTALL
)
_NUMBER = re.compile(r"\d[\d.,]*(e[-+]\d+)?")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@dataclass(frozen=True)
class Block:
    """A block of a page: `sh`, `python`, `yaml`, `text`; the file that its title names, and what it holds."""

    kind: str
    title: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page; an indented one holds commands."""
    for kind, title, fenced, indented in _BLOCK.findall(text):
        yield Block(kind or "sh", title, fenced or indented)


def shortened(words: list[str]) -> list[str]:
    """The same command, where it takes long: one epoch, no worker processes; a published name without weights."""
    command, first, *rest = words
    if command == "grow" and re.fullmatch(r"\w+\.\w+", first):
        return [command, first, *rest[: rest.index("-o")], "--dry-run"]
    if command == "finetune" and "--resume" not in rest:
        at = rest.index("--epochs") if "--epochs" in rest else len(rest)
        return [command, first, *rest[:at], *rest[at + 2 :], "--epochs", "1", "--workers", "0", "--device", "cpu"]
    if command == "compare":
        rest = [re.sub(r"^\d+epochs$", "1epochs", word) for word in rest]
        return [command, first, *rest, "--set", "workers=0", "--device", "cpu"]
    return words


@pytest.fixture
def run(growtool, capsys, monkeypatch, tmp_path):
    """`run(line)`: what a line of a block prints, in a folder that has `docs` and `vit_small`."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    write_folder(
        Tiny("test_vit", {"img_size": 32, "embed_dim": 16, "num_heads": 4, "depth": 1}), tmp_path / "vit_small"
    )
    monkeypatch.chdir(tmp_path)

    def one(line: str) -> str:
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "growtool":
            code, out, err = growtool(*shortened(words))
            assert code == 0, f"{line}\n{err}"
            return out + err
        if program == "python":
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", words)
                patch.syspath_prepend(str(ROOT / "docs" / "demo"))
                runpy.run_path(words[0], run_name="__main__")
            return "".join(capsys.readouterr())
        assert program in ("", "pip"), f"{line}: nothing runs it"  # installing needs the network: the extras are held
        assert set(re.findall(r"\.\[(\w+)\]", line)) <= set(EXTRAS)
        return ""

    return one


def masked(line: str) -> str:
    """Without what differs between machines and with the length of training."""
    return " ".join(_NUMBER.sub("#", line).split())


def walk(page: str, run) -> list[Block]:
    """Run all of a page; the blocks that were held."""
    printed, held = "", []
    for block in blocks(page):
        if block.kind == "sh":
            printed = "".join(run(line) for line in block.text.splitlines())
        elif block.kind == "text":
            lines = iter(map(masked, printed.splitlines()))
            assert not [line for line in block.text.splitlines() if masked(line) not in lines], printed
        elif block.title:
            Path(block.title).write_text(block.text)
        held.append(block)
    return held


def test_the_commands_of_the_readme_run(run):
    held = walk((ROOT / "README.md").read_text(), run)
    assert sum(line.split()[0] == "growtool" for b in held if b.kind == "sh" for line in b.text.splitlines()) >= 9


@pytest.mark.parametrize("last", ["## 5", pytest.param("## Next", marks=pytest.mark.slow)])
def test_the_tutorial_runs(last, run, capsys):
    """Up to a chapter: the comparison trains in processes of its own, each of which imports torch."""
    page, *_ = (ROOT / "docs" / "tutorial.md").read_text().partition(last)
    held = walk(page, run)
    assert [block.kind for block in held].count("text") >= 4
    for block in held:
        if block.kind == "python":
            exec(block.text, {})
            assert capsys.readouterr().out.splitlines() == re.findall(r"\)  # (.*)$", block.text, re.MULTILINE)
    for name in re.findall(r"`((?:compared|runs)[\w/.]*\.(?:html|svg|md))`", page):
        assert Path(name).exists()
