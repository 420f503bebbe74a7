"""The site of `make docs`: every page has its place, every link leads somewhere, every public name is told."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import yaml

import growtool
from tests.support.rooms import ROOT

DOCS = ROOT / "docs"
NAV = re.findall(r"^ +- .*?: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
BLOCK = re.compile(r"^::: growtool\.(\S+)\n(?:    options: (.*)\n)?", re.MULTILINE)


def test_every_page_has_one_place():
    ours = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert len(set(NAV)) == len(NAV)
    assert set(NAV) == ours | {"index.md"} | {path.name for path in ROOT.glob("*.md")} - {"README.md"}


def test_every_public_name_is_told():
    told = [yaml.safe_load(options)["toc_label"] if options else name for name, options in BLOCK.findall(API)]
    assert sorted(told) == sorted(growtool.__all__)


API = (DOCS / "api.md").read_text()


@pytest.mark.parametrize(("path", "options"), [found for found in BLOCK.findall(API) if found[1]])
def test_a_name_that_is_a_module_too_is_told_by_its_home(path, options):
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(f"growtool.{module}"), name)
    assert getattr(growtool, yaml.safe_load(options)["toc_label"]) is found


def test_the_site_is_built_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    told = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home = (tmp_path / "site" / "index.html").read_text()
    assert 'href="choosing.html"' in home and 'src="experiments/cost.svg"' in home
    assert 'href="CONTRIBUTING.html"' in (tmp_path / "site" / "architecture.html").read_text()
