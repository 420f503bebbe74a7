"""docs/architecture.md and CONTRIBUTING.md speak of files, names and rooms that are there."""

import re

import pytest

from tests.support.rooms import FLOORS, PACKAGE, ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
FENCED = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
BOTH = FENCED.sub("", PAGE + (ROOT / "CONTRIBUTING.md").read_text())
CODE = re.findall(r"`([^`\n]+)`", BOTH)
EXAMPLE = {f"growtool/operators/{place}" for place in ("width/reflect.py", "text/reflect.md")}  # made in the page
PATHS = sorted({text for text in CODE if re.fullmatch(r"(growtool|tests|docs)/[\w./]*[a-z/]", text)} - EXAMPLE)
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
