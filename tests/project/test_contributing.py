"""CONTRIBUTING.md shows code that stands in the repository, or that works once it is put where the page says."""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file

from tests.support.plain_timm import in_plain_timm
from tests.support.rooms import PACKAGE, ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
STANDS_IN = {
    '**_rows("tril triu"': "growtool/trace/table/ops.py",
    "def triangle(": "growtool/trace/table/rules/indexing.py",
    "class TokenLibrary(": "tests/support/token_library.py",
}


def block(start: str) -> str:
    """The one block of code that begins so."""
    (found,) = (text for text in BLOCKS if text.lstrip().startswith(start))
    return found


@pytest.mark.parametrize(("start", "file"), STANDS_IN.items(), ids=STANDS_IN.values())
def test_an_excerpt_stands_in_the_file(start, file):
    lines: Iterator[str] = map(str.strip, (ROOT / file).read_text().splitlines())
    missing = [line for line in map(str.strip, block(start).splitlines()) if line not in lines]  # one after the other
    assert not missing


def test_the_trace_names_what_has_no_row():
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(block("import torch\nimport growtool"), {})
    assert shown.getvalue() == re.findall(r"print\(.*?\)  # (.*\n)", PAGE)[0]


@pytest.fixture
def package(tmp_path):
    """The folder of a copy of growtool with the operator of the page, put where the page says."""
    copy = tmp_path / "growtool"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    plan, table = copy / "plan" / "width.py", copy / "operators" / "table.py"
    for file, place, text in (
        (plan, "_Operators = (\n", block("class Reflect(") + "\n\n_Operators = (\n    Reflect |\n"),
        (table, "    for info in (\n", "    for info in (\n" + block("OperatorInfo(") + ",\n"),
    ):
        assert file.read_text().count(place) == 1
        file.write_text(file.read_text().replace(place, text))
    (copy / "operators" / "width" / "reflect.py").write_text(block('"""`reflect`'))
    return copy.parent


def test_the_operator_of_the_page_grows_exactly(package):
    (package / "docs").symlink_to(ROOT / "docs")
    (words,) = re.findall(r"```sh\ngrowtool (.*)\n```", PAGE)
    code = "import sys; sys.path.insert(0, '.'); sys.argv[0] = 'growtool'; from growtool.cli.app import main; main()"
    done = in_plain_timm(code, *words.split(), folder=package)
    assert done.returncode == 0, done.stderr
    assert "promise: exact" in done.stdout + done.stderr and "reflect" in (package / "grown" / "plan.yaml").read_text()
    old, new = (load_file(package / name / "model.safetensors") for name in ("docs/demo/checkpoint", "grown"))
    shift, wide = old["bn1.bias"], new["bn1.bias"]
    assert torch.equal(wide, torch.cat([shift, shift.flip(0)])), "the copies that the page speaks of"
