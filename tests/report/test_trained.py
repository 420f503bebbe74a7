"""The cost of training that led to a checkpoint is that of its own records."""

import json

import pytest

from growtool.checkpoint import open_checkpoint
from growtool.report.macs import macs_of, training_macs
from growtool.report.trained import recorded_macs
from tests.support.models import TINY, write_folder


def test_a_checkpoint_that_was_named_has_no_records_in_the_working_folder(tmp_path, monkeypatch):
    """Another run's folder to work in is taken for nothing that the run was trained from."""
    folder, elsewhere = write_folder(TINY["vit"], tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place, steps in ((folder, 3), (elsewhere, 1000)):
        config = {"checkpoint": "vit_tiny_patch16_224.augreg_in21k", "batch_size": 4}
        (place / "training.json").write_text(json.dumps({"step": steps, "config": config}))
    monkeypatch.chdir(elsewhere)
    checkpoint = open_checkpoint(folder)
    assert recorded_macs(checkpoint) == training_macs(macs_of(checkpoint.spec, where="it"), 12)


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_run_is_followed_to_the_folder_that_it_started_from(prefix: str, tmp_path):
    first, second = (write_folder(TINY["vit"], tmp_path / name) for name in ("first", "second"))
    for folder, start, steps in ((first, "elsewhere/gone", 3), (second, f"{prefix}{first}", 5)):
        (folder / "training.json").write_text(
            json.dumps({"step": steps, "config": {"checkpoint": start, "batch_size": 4}})
        )
    checkpoint = open_checkpoint(second)
    assert recorded_macs(checkpoint) == training_macs(macs_of(checkpoint.spec, where="it"), 32)
