"""Every figure in the tables of docs/experiments.md is what its evaluations say."""

import re

import pytest

from tests.campaign.__main__ import shown
from tests.support.experiments_page import PAGE, PICTURE, RESULTS, TABLES, picture

PAGE_LINES = PAGE.read_text().splitlines()
CAMPAIGN = shown(RESULTS)


def stand_together(lines):
    places = [PAGE_LINES.index(line) for line in lines]
    return places == list(range(places[0], places[0] + len(places)))


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_the_page_has_the_table(number):
    lines = TABLES[number].lines()
    missing = [line for line in lines if line not in PAGE_LINES]
    assert not missing, "python -m tests.support.experiments_page prints the rows as they should be"
    assert stand_together(lines), "one row after the other"


def rows(family):
    return [line for line in "\n".join(CAMPAIGN[family][0]).splitlines() if line.startswith("|")]


@pytest.mark.parametrize("family", CAMPAIGN)
def test_the_page_has_what_the_campaign_saved(family):
    found, (_, picture) = rows(family), CAMPAIGN[family]
    assert stand_together(found[2:]), "python -m tests.campaign --tell prints them"
    assert RESULTS.with_name(f"campaign-{family}.svg").read_text() == picture, "and draws it"


def test_no_other_table_holds_accuracies():
    known = {line for table in TABLES for line in table.lines()} | {
        line for family in CAMPAIGN for line in rows(family)
    }
    others = [line for line in PAGE_LINES if re.search(r"\| \d\d\.\d\d", line) and line not in known]
    assert not others


def test_the_picture_is_drawn_from_the_evaluations():
    assert PICTURE.read_text() == picture(), "python -m tests.support.experiments_page draws it"
