"""The tests mirror the rooms: a folder for each, helpers in one place, and no private name of the package."""

import ast
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.support.rooms import PACKAGE, TESTS

ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
TOOLS = {"fuzz", "gpu", "zoo", "bench", "campaign", "release"}  # `make fuzz` and so on, with what tests them
ELSEWHERE = {"project", "support", "golden"}  # what spans all rooms, helpers, what was seen before
TORCHS = {  # private names of torch, which has no public ones for them
    "_BatchNorm", "_forward_hooks", "_forward_pre_hooks", "_global_parameter_registration_hooks", "_scoped_library",
    "_scaled_dot_product_flash_attention_for_cpu", "_to_copy",
}  # fmt: skip


def test_every_room_has_its_folder():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == ROOMS | TOOLS | ELSEWHERE
    assert {path.name for path in TESTS.glob("*.py")} == {"__init__.py", "conftest.py"}
    for folder in ROOMS:
        assert list((TESTS / folder).glob("test_*.py")), f"no test of the room {folder}"


def test_every_module_has_one_name():
    """Only a package's modules have: pytest puts the folder of any other file on the path too."""
    folders = {path.parent for path in TESTS.rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_a_quick_look_runs_the_first_case_of_each_test():
    items = [SimpleNamespace(nodeid=name) for name in ("a.py::x[1]", "a.py::x[2-a[0]]", "a.py::y", "b.py::x[2]")]
    left_out: list[SimpleNamespace] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: name == "first", hook=hook), items)
    assert [item.nodeid for item in items] == ["a.py::x[1]", "a.py::y", "b.py::x[2]"]
    assert [item.nodeid for item in left_out] == ["a.py::x[2-a[0]]"]


def imported_tests(tree: ast.Module) -> Iterator[str]:
    """Modules of tests that are imported: what several share is a helper."""
    modules = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    yield from (name for name in modules if name.startswith("tests.") and ".test_" in name)


def private_names(tree: ast.Module) -> Iterator[str]:
    """Names with one leading underscore that are imported, patched, or looked up on something else than `self`."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("growtool", "tests"):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "os"):
            found = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "getattr")):
            texts = [text.value for text in node.args[:2] if isinstance(text, ast.Constant)]
            found = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
        yield from (name for name in found if name.startswith("_") and not name.startswith("__") and name[-1] != "_")


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_it_imports_helpers_and_public_names(path):
    tree = ast.parse(path.read_text())
    assert not list(imported_tests(tree))
    assert not set(private_names(tree)) - TORCHS


def test_private_names_are_seen():
    tree = ast.parse("from growtool.trace import _x\na._b\nself._c\npatch.setattr('a._d', 1)\nsetattr(a, '_e', 1)")
    assert sorted(private_names(tree)) == ["_b", "_d", "_e", "_x"]
    assert list(imported_tests(ast.parse("from tests.trace.test_axis import axes"))) == ["tests.trace.test_axis"]
