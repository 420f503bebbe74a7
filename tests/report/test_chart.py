"""Charts and pages: what stands in them, and that they stand alone."""

import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from growtool.report.chart import Chart, Series, to_svg, write_png
from growtool.report.page import TableText, html_page
from growtool.report.ticks import log_ticks, ticks

CHART = Chart(
    "top-1 <against> steps",
    "steps",
    "top-1 in %",
    (
        Series("tile & split", (0.0, 100.0, 200.0), (79.0, 79.5, 80.25), (0.1, 0.2, 0.1)),
        Series("scratch", (0.0, 200.0), (10.0, float("nan"))),
    ),
    marks=((100.0, "grown"),),
)


def test_an_svg_is_well_formed_and_shows_every_series() -> None:
    root = ET.fromstring(to_svg(CHART))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"top-1 <against> steps", "tile & split", "scratch", "steps", "top-1 in %", "grown"} <= set(texts)
    lines = [element.get("points", "") for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line.split()) for line in lines] == [3, 1], "a value that is not finite has no point"
    told = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "tile & split: 80.25 at 200" in told


@pytest.mark.parametrize(("count", "bars"), [(3, 3), (12, 12), (13, 0)])
def test_few_points_have_error_bars_and_many_a_band(count, bars) -> None:
    x = tuple(map(float, range(count)))
    root = ET.fromstring(to_svg(Chart("a", "b", "c", (Series("it", x, x, (0.5,) * count),))))
    paths = [path.get("d", "") for path in root.iter("{http://www.w3.org/2000/svg}path")]
    assert sum("h8m-4 0V" in path for path in paths) == bars
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polygon"))) == (not bars)


@pytest.mark.parametrize("last", [1.0, 60.0, 35e9, 9.9e12])
@pytest.mark.parametrize("log_x", [False, True])
def test_numbers_below_the_axis_have_room(last, log_x) -> None:
    chart = Chart("a", "b", "c", (Series("it", (last / 900, last), (1.0, 2.0)),), log_x=log_x)
    texts = [e for e in ET.fromstring(to_svg(chart)).iter("{http://www.w3.org/2000/svg}text") if e.get("y") == "273"]
    places = [float(text.get("x", "")) for text in texts]
    assert len(places) >= 2 and all(after - before >= 36 for before, after in pairwise(places))
    assert places[-1] + 3.5 * len(texts[-1].text or "") <= 480, "the last one is whole"


def test_points_keep_the_order_of_their_values() -> None:
    root = ET.fromstring(to_svg(CHART))
    line = next(root.iter("{http://www.w3.org/2000/svg}polyline")).get("points", "")
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True), "up is less in SVG"


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (10.3, 80.7), (0.0, 0.0), (5.0, 5.0), (-3.0, 1e9), (79.0, 79.05)]
)
def test_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-9 and found[-1] >= high - 1e-9 * abs(high)
    assert 2 <= len(found) <= 9


def test_a_logarithmic_axis_gives_equal_ratios_equal_room() -> None:
    fit = ((1e12, 60.0), (1e13, 82.5))
    chart = Chart(
        "a", "b", "c", (Series("it", (1e12, 2e12, 4e12, 8e12), (60.0, 70.0, 75.0, 80.0), fit=fit),), log_x=True
    )
    root = ET.fromstring(to_svg(chart))
    line = next(root.iter("{http://www.w3.org/2000/svg}polyline")).get("points", "")
    x = [float(point.split(",")[0]) for point in line.split()]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2) == pytest.approx(x[3] - x[2], abs=0.2)
    dotted = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("stroke-dasharray") == "1 3"]
    assert len(dotted) == 1


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (3e12, 4e12), (1e12, 4e13), (2.0, 9e9), (0.03, 0.05)])
def test_logarithmic_ticks_are_few_and_enclose_the_values(low: float, high: float) -> None:
    found = log_ticks(low, high)
    assert found[0] <= low * (1 + 1e-9) and found[-1] >= high * (1 - 1e-9) and list(found) == sorted(set(found))
    assert 2 <= len(found) <= 13


def test_a_page_needs_nothing_from_elsewhere() -> None:
    table = TableText(("plan", "top-1"), (("a|b", "80.1"), ("<c>", "-")))
    page = html_page("a & b", lead=["said <plainly>"], figures=[to_svg(CHART)], tables=[table])
    addresses: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            addresses.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Links().feed(page)
    assert not addresses
    assert "<script" not in page
    assert "said &lt;plainly&gt;" in page and '<td data-label="plan">&lt;c&gt;</td>' in page


def test_a_markdown_table_keeps_its_columns() -> None:
    text = TableText(("plan", "top-1"), (("a|b", "80.1"),)).to_markdown()
    assert text == "| plan | top-1 |\n| --- | ---: |\n| a\\|b | 80.1 |\n"


def test_a_table_may_have_a_title() -> None:
    table = TableText(("a", "b"), (("1", "2"),), title="what <is> saved")
    assert table.to_markdown().startswith("## what <is> saved\n\n| a | b |\n")
    assert table.to_html().startswith("<h2>what &lt;is&gt; saved</h2>\n<table>")


def test_png_is_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an extra")
    write_png(
        [CHART, Chart("log", "x", "y", (Series("a", (1.0, 10.0), (1.0, 2.0), fit=((1.0, 1.0),)),), log_x=True)],
        tmp_path / "a.png",
    )
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_report_refuses_places_it_cannot_write_before_it_writes(tmp_path) -> None:
    from typer.testing import CliRunner

    from growtool.cli.app import app
    from growtool.errors import PlanError

    words = [
        "report",
        "run",
        "-o",
        tmp_path / "a.html",
        "--png",
        tmp_path / "o.jpgx",
        "--svg",
        tmp_path / "no/deep/o.svg",
    ]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert isinstance(done.exception, PlanError)
    assert done.exception.problems == (
        f"--svg {tmp_path}/no/deep/o.svg: found no folder {tmp_path}/no/deep, expected one; create it or name another "
        "place",
        f"--png {tmp_path}/o.jpgx: found a name in .jpgx, expected one that ends in .png",
    )
    assert not list(tmp_path.iterdir())


def test_help_names_the_package_that_draws(monkeypatch) -> None:
    from typer.testing import CliRunner

    from growtool.cli.app import app

    monkeypatch.setenv("COLUMNS", "200")
    assert "(needs matplotlib)" in CliRunner().invoke(app, ["report", "--help"]).stdout


def test_without_matplotlib_the_message_names_the_package(tmp_path, monkeypatch) -> None:
    import sys

    from growtool.errors import PlanError

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlanError, match=r"needs matplotlib.*pip install matplotlib"):
        write_png([CHART], tmp_path / "a.png")
