"""docs/architecture.md speaks of files, names and rooms that are there."""

import re
from pathlib import Path

import pytest

from growtool.operators.table import OPERATORS
from growtool.trace.table.ops import OPS
from tests.support.rooms import FLOORS, PACKAGE, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
CODE = re.findall(r"`([^`\n]+)`", FENCED.sub("", PAGE))
PATHS = sorted({text for text in CODE if re.fullmatch(r"(growtool|tests|docs)/[\w./]*[a-z/]", text)})
NAMES = sorted({text for text in CODE if re.fullmatch(r"_?[A-Z]\w+(\.\w+)?", text)})
ELSEWHERE = {"NAME", "Z", "E", "R_in", "E_in", "TorchDispatchMode"}  # letters of formulas, and a class of torch


@pytest.fixture(scope="module")
def defined() -> set[str]:
    """Every class, function and constant of the package."""
    pattern = re.compile(r"^\s*(?:class|def) (\w+)|^(\w+)\b[^=\n(]*= ", re.MULTILINE)
    texts = (path.read_text() for path in PACKAGE.rglob("*.py"))
    return {name for text in texts for found in pattern.findall(text) for name in found if name}


@pytest.mark.parametrize("path", PATHS)
def test_its_files_are_there(path):
    assert (ROOT / path).exists()


def test_it_names_what_is_there(defined):
    used = {part for name in NAMES if name not in ELSEWHERE for part in name.split(".")}
    assert used <= defined, used - defined
    assert len(used) > 20 and len(PATHS) > 25, "the page is read"


def test_its_picture_has_every_room_on_its_floor():
    (picture,) = (text for text in FENCED.findall(PAGE) if text.startswith("cli "))
    drawn = [set(line[:25].split()) for line in picture.splitlines()]
    rooms = set().union(*FLOORS) - {"__main__", "__init__", "_timm_hook"}
    assert set().union(*drawn) == rooms
    floor = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    order = [{floor[room] for room in line} for line in drawn]
    assert all(len(floors) == 1 for floors in order)
    assert [f for (f,) in order] == sorted((f for (f,) in order), reverse=True)


def test_its_row_is_the_tables():
    (row,) = re.findall(r'\*\*_rows\("(\w+)", Kind\.(\w+), axes=indexing\.(\w+), linear=True\)', PAGE)
    name, kind, rule = row
    assert (OPS[name].kind.name, OPS[name].axes.__name__, OPS[name].linear) == (kind, rule, True)


@pytest.mark.parametrize("name", ["tile", "zero_out"])
def test_its_examples_have_what_it_says(name):
    module = OPERATORS[name].implementation()
    said = ("ABILITIES", "expand", "grow", "loss") if OPERATORS[name].axis == "width" else ("arrange", "loss")
    assert all(hasattr(module, attribute) for attribute in said)
    assert Path(module.__file__ or "").name == f"{name}.py"
