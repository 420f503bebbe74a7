"""The rooms of growtool: imports run down the table or along a floor one way, wherever in a file they stand."""

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.rooms import FLOORS, MODULES, PACKAGE, ROOT

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    """`growtool/plan/load.py` and `growtool/plan.py` are both in the room `plan`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import of growtool, those under `if TYPE_CHECKING` and in functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "growtool":
                yield node.lineno, rest[0] if rest and rest[0] in FLOOR else "__init__"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_up(path):
    here = room_of(path)
    assert here in FLOOR, f"{path.name}: a new room; give it a floor"
    upward = [
        f"line {line}: {here} imports {room}"
        for line, room in imported_rooms(path.read_text())
        if FLOOR[room] > FLOOR[here]
    ]
    assert not upward


def test_rooms_of_a_floor_import_each_other_one_way():
    along = {
        (room_of(path), room)
        for path in PACKAGE.rglob("*.py")
        for _, room in imported_rooms(path.read_text())
        if room != room_of(path) and FLOOR[room] == FLOOR[room_of(path)]
    }
    TopologicalSorter(group(along)).prepare()  # raises where there is a way back


def group(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for room, imported in pairs:
        found.setdefault(room, set()).add(imported)
    return found


def module_of(path: Path) -> str:
    """`growtool.plan` for `growtool/plan/__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(source: str, modules: Collection[str]) -> Iterator[str]:
    """Those of the modules that are imported, wherever in the file: itself, or the package a name is taken from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name in modules else str(node.module) for name in names} & set(modules)
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & set(modules)


def test_no_module_imports_itself_by_way_of_others():
    paths = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    imports = {module: set(imported_modules(path.read_text(), paths)) - {module} for module, path in paths.items()}
    TopologicalSorter(imports).prepare()  # raises where there is a circle, and names it


def test_every_import_of_a_module_is_seen():
    source = "from a.b import c, d\nif TYPE_CHECKING:\n    import e\ndef f():\n    from a import b"
    assert sorted(imported_modules(source, {"a", "a.b", "a.b.c", "e"})) == ["a.b", "a.b", "a.b.c", "e"]


def test_no_folder_is_too_full():
    held = Counter(path.parent for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    full = {str(folder.relative_to(PACKAGE)): count for folder, count in held.items() if count > MODULES}
    assert not full


def test_a_way_back_is_seen():
    with pytest.raises(CycleError):
        TopologicalSorter(group([("a", "b"), ("b", "c"), ("c", "a")])).prepare()


def test_an_import_that_runs_up_is_seen_wherever_it_stands():
    source = "if TYPE_CHECKING:\n    from growtool.growing import grow\ndef f():\n    import growtool.cli.app\n"
    assert list(imported_rooms(source)) == [(2, "growing"), (4, "cli")]
    assert list(imported_rooms("from growtool import plan, Plan")) == [(1, "plan"), (1, "__init__")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_opens_with_a_summary(path):
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef | ast.FunctionDef))
    bare = [
        node.name for node in nodes if (ast.get_docstring(node) or "").startswith(("Attributes:", "Args:", "Raises:"))
    ]
    assert not bare


TIMMS = {"library", "finetune", "images", "_timm_hook"}  # rooms that are about timm: its boundary, and training
# Files of other rooms that may write its name in what users read, and why.
SAYS_TIMM = {
    "cli/app.py": "what growtool is for",
    "cli/commands/list.py": "the families that docs/zoo.md is about",
    "cli/opening.py": "a folder or a name that nothing is known of yet",
    "cli/commands/reference.py": "the same",
    "checkpoint/documents.py": "the same as cli/opening.py",
    "checkpoint/beside.py": "how an exported template checkpoint is loaded",
    "checkpoint/foreign/importing.py": "the same as cli/opening.py",
    "checkpoint/foreign/finding.py": "the same",
    "growing/call.py": "a model in memory that no library knows",
    "growing/source.py": "the same as cli/opening.py",
    "operators/table.py": "the text of docs/operators.md",
    "plan/schema.py": "what a plan may say",
    "workflows/protocol/file.py": "what a protocol may say",
}
OTHERS = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in TIMMS]


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def timms(modules: Iterable[str]) -> list[str]:
    return [name for name in modules if name.split(".")[0] == "timm" or name.startswith("growtool.library.timm")]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_timm_stands_behind_its_boundary(path):
    """No other room imports timm or what is timm's in growtool, has a name for it, or speaks of it without a reason."""
    tree, name = ast.parse(path.read_text()), str(path.relative_to(PACKAGE))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if id(node) not in docs]
    named = [getattr(node, key) for node in nodes for key in ("id", "attr", "arg", "name") if hasattr(node, key)]
    said = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if name == "__init__.py":  # makes `growtool_open` known as soon as timm is imported
        assert timms(imports_of(tree)) == ["growtool.library.timm.reach"]
        return
    assert not timms(imports_of(tree))
    assert not [text for text in named if isinstance(text, str) and "timm" in text.lower()]
    assert any("timm" in text for text in said) == (name in SAYS_TIMM), "name the file in SAYS_TIMM, or drop it there"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_transformers_stands_behind_its_boundary(path):
    """Nothing else imports it, or what is its own in growtool, but the registry that makes it known."""
    inside = path.is_relative_to(PACKAGE / "library" / "transformers")
    own = ("transformers", "growtool.library.transformers")
    found = [name for name in imports_of(ast.parse(path.read_text())) if name.startswith(own)]
    assert inside or not found or path == PACKAGE / "library" / "registry.py"


def test_an_import_of_timm_is_seen_wherever_it_stands():
    source = "def f():\n    from timm.data import create_transform\n    import growtool.library.timm.reach, timmy\n"
    assert timms(imports_of(ast.parse(source))) == ["timm.data", "growtool.library.timm.reach"]
