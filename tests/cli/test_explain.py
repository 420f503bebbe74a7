"""`growtool explain` and `growtool list`: all about an operator, names by a pattern, tables of 80 columns."""

import json
import sys

import pytest

from growtool.cli import app as cli
from growtool.operators.explain import explain
from growtool.operators.table import OPERATORS
from tests.support.golden_widths import GOLDEN, SHOWN, measured


@pytest.fixture
def growtool(monkeypatch, capsys):
    def run(*arguments, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["growtool", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return (code, *capsys.readouterr())

    return run


def test_what_is_shown_as_measured_is_what_was_measured():
    assert json.loads(SHOWN.read_text()) == measured(json.loads(GOLDEN.read_text())), (
        "python -m tests.support.golden_widths"
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_an_explanation_holds_everything(growtool, name):
    code, out, _ = growtool("explain", name)
    found, info = explain(name), OPERATORS[name]
    assert code == 0
    for text in (info.summary, info.promise, info.formula, info.source, info.when, found.example.strip()):
        assert text in out
    said = " ".join(out.split())
    assert all(option.name in said for option in found.options)
    assert bool(found.measured) == ("width" in info.axes) and all(family in said for family in found.measured)


def test_an_unknown_operator_gets_near_ones(growtool):
    code, _, err = growtool("explain", "til")
    assert code == 1
    assert err == "error: OPERATOR: found 'til', expected the name of an operator; did you mean 'tile'?\n"
    assert "one of tile, net2net" in growtool("explain", "qqqq")[2]


@pytest.mark.parametrize(("kind", "pattern", "names"), [
    ("operators", "zero", {"centre_zero", "zero", "zero_out"}),
    ("operators", "net2*", {"net2net", "net2deeper"}),
    ("families", "vision_transformer_*", {f"vision_transformer_{n}" for n in ("hybrid", "relpos", "sam")}),
    ("families", "swiftformer", {"swiftformer"}),
])  # fmt: skip
def test_names_are_listed_by_a_pattern(growtool, kind, pattern, names):
    listed = json.loads(growtool("list", kind, pattern, "--json")[1])[kind]
    assert {entry["name"] if kind == "operators" else entry for entry in listed} == names


def test_a_pattern_without_a_match_is_told(growtool):
    code, _, err = growtool("list", "operators", "zerro")
    assert (code, err) == (
        1,
        "error: PATTERN: no operator matches 'zerro'; did you mean 'zero' or 'zero_out' or 'centre_zero'?\n",
    )


@pytest.mark.parametrize("kind", ["operators", "families"])
def test_the_tables_fit_80_columns_and_break_no_word(growtool, kind):
    narrow, wide = (growtool("list", kind, columns=columns)[1] for columns in (80, 400))
    notes = ("All about", "Families of transformers")
    rows = [line for line in narrow.splitlines() if not line.startswith(notes) and " models in " not in line]
    assert max(map(len, rows)) <= 80
    assert words_of(narrow) == words_of(wide)


def words_of(text):
    return {word for word in text.split() if "─" not in word}
