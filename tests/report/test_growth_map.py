"""`growtool inspect A B`: which block of a grown checkpoint came from which of its source."""

import json

from growtool.checkpoint import open_checkpoint
from growtool.report.growth_map import BlockOrigin, growth_map
from tests.support.models import TINY, grown, write_folder


def test_blocks_are_told_by_the_growth_map(tmp_path):
    source, out = write_folder(TINY["vit"], tmp_path / "source"), tmp_path / "out"
    plan = {"target": {"scale": {"depth": 2}}, "depth": {"operator": "zero_out"}}
    grown(source, plan, out)
    small, large = open_checkpoint(source), open_checkpoint(out)
    found = growth_map(large, small)
    assert found is not None
    assert found.blocks() == (
        BlockOrigin("blocks.0", "blocks.0", None),
        BlockOrigin("blocks.1", "blocks.0", "zero_out"),
        BlockOrigin("blocks.2", "blocks.1", None),
        BlockOrigin("blocks.3", "blocks.1", "zero_out"),
    )
    plan["depth"]["start"] = "initial"
    grown(source, plan, tmp_path / "initial")
    anew = growth_map(open_checkpoint(tmp_path / "initial"), small)
    assert anew is not None and anew.blocks()[1] == BlockOrigin("blocks.1", None, "zero_out")
    assert found.origin("blocks.2.mlp") == BlockOrigin("blocks.2.mlp", "blocks.1.mlp", None)
    assert growth_map(small, large) is None  # no report beside it: equal names, as ever
    report = json.loads((out / "growth.json").read_text())
    report["tensors"] = {name: {**entry, "source": "elsewhere"} for name, entry in report["tensors"].items()}
    (out / "growth.json").write_text(json.dumps(report))
    assert growth_map(large, small) is None  # grown from another network
