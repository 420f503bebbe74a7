"""Every figure in the tables of docs/experiments.md is what its evaluations say."""

import re

import pytest

from tests.support.experiments_page import PAGE, PICTURE, TABLES, picture

PAGE_LINES = PAGE.read_text().splitlines()


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_the_page_has_the_table(number):
    lines = TABLES[number].lines()
    missing = [line for line in lines if line not in PAGE_LINES]
    assert not missing, "python -m tests.support.experiments_page prints the rows as they should be"
    places = [PAGE_LINES.index(line) for line in lines]
    assert places == list(range(places[0], places[0] + len(lines))), "one row after the other"


def test_no_other_table_holds_accuracies():
    known = {line for table in TABLES for line in table.lines()}
    others = [line for line in PAGE_LINES if re.search(r"\| \d\d\.\d\d", line) and line not in known]
    assert not others


def test_the_picture_is_drawn_from_the_evaluations():
    assert PICTURE.read_text() == picture(), "python -m tests.support.experiments_page draws it"
