"""Pictures of checkpoints: every width, every block and every weight is in them, and what growth did adds up."""

import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
import torch

from growtool.checkpoint import build, open_checkpoint
from growtool.errors import CheckpointError
from growtool.report.picture import Drawn, of_checkpoint, of_growth, to_svg
from growtool.report.sections import Block, Section, Width, sections
from growtool.trace import Trace, trace_built
from tests.support.models import TINY, grown, write_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "picture.svg"
SVG = "{http://www.w3.org/2000/svg}"
BOTH = {"target": {"scale": {"width": 2, "depth": 2}}, "width": "tile", "depth": {"operator": "zero_out"}}


def traced(folder: Path) -> tuple[torch.nn.Module, Trace, dict[str, int]]:
    checkpoint = open_checkpoint(folder)
    model = build(checkpoint.spec)
    return model, trace_built(checkpoint.spec, model), {n: p.numel() for n, p in model.named_parameters()}


def counted(parts: list[Section]) -> Counter[str]:
    return sum((Counter(part.weights) for part in parts), Counter())


@pytest.mark.parametrize("family", TINY)
def test_every_width_and_every_weight_is_in_one_part(family, tmp_path):
    model, trace, parameters = traced(write_folder(TINY[family], tmp_path / family))
    parts = sections(trace, parameters, None)
    free = Counter(group.size for group in trace.groups if group.fixed is None)
    drawn: Counter[int] = Counter()
    for width in (width for part in parts for width in part.widths):
        drawn[width.after] += width.sets
    assert drawn == free
    assert counted(parts) == {"copied": sum(p.numel() for p in model.parameters())}
    for part in parts:
        assert not part.blocks or sum((Counter(b.weights) for b in part.blocks), Counter()) == part.weights


@pytest.mark.parametrize("family", ["vit", "resnet", "convnext"])
@pytest.mark.parametrize("plan", [BOTH, {**BOTH, "width": "zero", "allow_lossy": True}], ids=["tile", "zero"])
def test_what_growth_made_adds_up(family, plan, tmp_path):
    source, out = write_folder(TINY[family], tmp_path / "source"), tmp_path / "out"
    grown(source, plan, out)
    report = json.loads((out / "growth.json").read_text())
    _, trace, parameters = traced(out)
    parts = sections(trace, parameters, report)
    assert sum(counted(parts).values()) == report["after"]["parameters"]
    told: Counter[tuple[str, int, int]] = Counter()
    for width in (width for part in parts for width in part.widths):
        assert width.before + width.copies + width.blank == width.after and min(width.copies, width.blank) >= 0
        if 0 < width.before < width.after:
            told[width.what, width.before, width.after] += width.sets
    assert told == {(w["what"], w["before"], w["after"]): w["groups"] for w in report["widths"]}
    new = {block.path: block.source for part in parts for block in part.blocks if block.new}
    assert set(new) == set(report["new_blocks"])
    assert {path for path, origin in new.items() if origin is None} == set(report["initial_blocks"])
    weights = open_checkpoint(out)
    zeros = {name for name, entry in report["tensors"].items() if entry["how"] == "zero"}
    assert counted(parts)["zero"] == sum(weights.read(name).numel() for name in zeros & parameters.keys())
    assert not any(weights.read(name).any() for name in zeros)


def test_blocks_that_start_anew_are_new(tmp_path):
    source, out = write_folder(TINY["vit"], tmp_path / "source"), tmp_path / "out"
    grown(source, {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out", "start": "initial"}}, out)
    model, trace, parameters = traced(out)
    report = json.loads((out / "growth.json").read_text())
    (part,) = [part for part in sections(trace, parameters, report) if part.blocks]
    widths, blocks = {width for width in part.widths if width.what == "hidden units of mlp"}, part.blocks
    assert {(width.before, width.blank, width.sets) for width in widths} == {(24, 0, 2), (0, 24, 2)}
    assert [block.new for block in blocks] == [False, True, False, True]
    for block in blocks:
        assert set(block.weights) == ({"new", "zero"} if block.new else {"copied"})
    told = [
        element.text for element in ET.fromstring(to_svg(of_growth(report, trace, model, "it"))).iter(f"{SVG}title")
    ]
    assert any(text and text.startswith("blocks.1, added by growth") for text in told)


def test_a_picture_is_well_formed_and_tells_every_width(tmp_path):
    source, out = write_folder(TINY["vit"], tmp_path / "a <b> & c"), tmp_path / "out"
    grown(source, BOTH, out)
    root = ET.fromstring((out / "growth.svg").read_text())
    words = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert "a <b> & c → test_vit" in words and "blocks, 2 → 4 blocks" in words
    assert {"residual stream", "8 → 16", "heads ×4", "2 → 4", "head size ×4", "4", "hidden units of mlp ×4"} <= set(
        words
    )
    assert {"the source's", "copies", "mixed", "zero", "added block"} <= set(words) and "new" not in words
    model, trace, _ = traced(source)
    plain = ET.fromstring(to_svg(of_checkpoint("it", ["so large"], trace, model)))
    words = ["".join(element.itertext()) for element in plain.iter(f"{SVG}text")]
    assert {"it", "so large", "blocks, 2 blocks", "8"} <= set(words) and "copies" not in words
    for rectangle in [*root.iter(f"{SVG}rect"), *plain.iter(f"{SVG}rect")]:
        x, wide = float(rectangle.get("x", "")), float(rectangle.get("width", ""))
        assert x >= 0 and x + wide <= 480 and wide > 0


def test_golden_picture():
    """`GROWTOOL_GOLDEN=write` writes it anew: look at it."""
    width = Width("hidden units", 4, 12, 4, "zero", 2)
    blocks = (
        Block("blocks.0", "blocks.0", False, {"mixed": 90}),
        Block("blocks.1", None, True, {"new": 80, "zero": 10}),
    )
    parts = [
        Section(("stem",), weights={"copied": 8}),
        Section(("blocks",), (width,), blocks, {"mixed": 90, "new": 90}),
    ]
    drawn = to_svg(Drawn("small → large", ["so many parameters"], parts, grown=True)) + "\n"
    if os.environ.get("GROWTOOL_GOLDEN") == "write":
        GOLDEN.write_text(drawn)
    assert drawn == GOLDEN.read_text()


def test_a_large_model_takes_as_much_room_as_a_small_one(tmp_path):
    drawn = []
    for depth in (2, 40):
        model, trace, _ = traced(write_folder(TINY["vit"].with_args(depth=depth), tmp_path / str(depth)))
        drawn.append(ET.fromstring(to_svg(of_checkpoint("it", [], trace, model))).get("viewBox"))
    assert drawn[0] == drawn[1]


def test_a_report_of_another_model_is_named(tmp_path):
    model, trace, _ = traced(write_folder(TINY["vit"], tmp_path / "source"))
    with pytest.raises(CheckpointError, match=r"growth\.json: found no report of how this very model grew"):
        of_growth({"before": {}, "after": {}}, trace, model, "growth.json")


def test_inspect_draws_one_checkpoint_and_a_growth(tmp_path, growtool):
    source, out = write_folder(TINY["vit"], tmp_path / "source"), tmp_path / "out"
    grown(source, BOTH, out)
    for words, size in (([source], 1), ([out], 1), ([source, out], 1), ([out, source], 2), ([source, source], 2)):
        code, shown, _ = growtool("inspect", *words, "--picture", tmp_path / "it.svg")
        assert code == 0 and f"written: {tmp_path}/it.svg" in shown
        assert ET.fromstring((tmp_path / "it.svg").read_text()).get("width") == str(480 * size)
        code, _, _ = growtool("inspect", *words, "--picture", tmp_path / "it.html", "--json")
        page = (tmp_path / "it.html").read_text()
        assert code == 0 and page.count("<svg ") == size and "<script" not in page
    code, shown, said = growtool("inspect", source, "--picture", tmp_path / "it.png")
    assert code == 1 and "expected one that ends in .svg or .html" in said and not shown


def test_grow_writes_a_page_before_and_after(tmp_path, growtool):
    source = write_folder(TINY["vit"], tmp_path / "source")
    words = ["grow", source, "--width", "2", "-o", tmp_path / "out", "--report", tmp_path / "it.html"]
    code, shown, _ = growtool(*words, "--dry-run")
    page = (tmp_path / "it.html").read_text()
    assert code == 0 and "it.html" in shown and "Promised: exact" in page and "Measured: not yet" in page
    code, shown, _ = growtool(*words)
    page = (tmp_path / "it.html").read_text()
    assert code == 0 and "it.html" in shown and "Measured: logits differ by" in page and page.count("<svg ") == 1
    assert "residual stream 8 -&gt; 16" in page and "scale:" in page
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(growth.svg)" in card and (tmp_path / "out" / "growth.svg").read_text() in page
    assert growtool(*words, "--force")[0] == 0, "--force replaces the picture with the rest"
    code, _, said = growtool("grow", source, "--width", "2", "--report", tmp_path / "none" / "it.html")
    assert code == 1 and "found no folder" in said
