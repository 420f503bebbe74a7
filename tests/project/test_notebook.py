"""What Python shows in a notebook: results as tables, progress as a bar, and a session that runs from start to end."""

import re
import runpy
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import growtool
from growtool.notebook import as_html, shown
from tests.support.finetune import UNCLOSED_IMAGES, write_checkpoint, write_data
from tests.support.models import TINY, write_folder
from tests.support.rooms import ROOT

PLAN = {"target": {"scale": {"width": 2}}, "width": {"operator": "tile"}}


@pytest.fixture
def session(monkeypatch):
    """As in IPython; without a kernel, bars are made of letters."""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(config={})))


@pytest.fixture
def folder(tmp_path):
    return write_folder(TINY["resnet"], tmp_path / "a <b> & c")


def texts(shown):
    """What stands in the cells and the title of a result; it has to be well-formed."""
    tree = ElementTree.fromstring(f"<div>{shown._repr_html_()}</div>")
    return [cell.text or "" for cell in tree.iter() if cell.tag in ("b", "td", "th")]


def test_letters_that_mean_something_in_html_are_shown():
    tree = ElementTree.fromstring(f"<div>{as_html('<&', {'a<': '>b'}, (('&',), [('<c>',)]))}</div>")
    assert [cell.text for cell in tree.iter() if cell.text] == ["<&", "a<", ">b", "&", "<c>"]


def test_results_are_tables(folder, tmp_path):
    (tmp_path / "plan.yaml").write_text(str(PLAN))
    loaded = growtool.load_plan(tmp_path / "plan.yaml")
    grown = growtool.grow_checkpoint(
        growtool.resolve(loaded.plan, growtool.open_checkpoint(folder)), loaded, tmp_path / "grown"
    )
    written = growtool.open_checkpoint(grown.out)
    assert {"exact", str(grown.proof), f"{grown.summary.after.parameters:,}"} <= set(texts(grown))
    assert {"exact", str(grown.proof), "resnet18"} <= set(texts(written))
    assert {"resnet18", "layer1", "BasicBlock"} & set(texts(growtool.inspect_checkpoint(grown.out)))
    found = growtool.verify_checkpoints(folder, written)
    assert texts(found)[0] == f"{folder} and {grown.out} compute the same function"
    other = write_folder(TINY["resnet"], tmp_path / "other", seed=1)
    assert texts(growtool.verify_checkpoints(folder, other))[0].endswith("compute different functions")


def test_growing_has_a_bar_in_a_session(folder, capfd, session):
    growtool.grow(folder, PLAN)
    assert "growing: " in capfd.readouterr().err


def test_nothing_is_shown_elsewhere(folder, capfd):
    growtool.grow(folder, PLAN)
    with shown("images", 4) as advance:
        advance(4)
    assert capfd.readouterr() == ("", "")


@UNCLOSED_IMAGES
def test_training_has_a_bar_and_a_line_for_each_evaluation(tmp_path, session, capfd):
    config = growtool.RunConfig(
        checkpoint=write_checkpoint(tmp_path / "source"),
        data=write_data(tmp_path / "data"),
        output=tmp_path / "run",
        steps=2,
        batch_size=4,
        workers=0,
    )
    growtool.finetune_checkpoint(config)
    out, err = capfd.readouterr()
    assert "training: " in err and re.search(r"^before: top-1 .* %", out, re.MULTILINE) and "epoch 1: top-1" in out


@UNCLOSED_IMAGES
def test_the_session_runs(capsys):
    sys.path.insert(0, str(ROOT / "docs" / "demo"))
    names = runpy.run_path(str(ROOT / "docs" / "demo" / "session.py"))
    sys.path.remove(str(ROOT / "docs" / "demo"))
    assert names["found"].agree and re.search(r"top-1 [\d.]+ % -> [\d.]+ %", capsys.readouterr().out)
