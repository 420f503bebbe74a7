"""The benchmark of growing: every phase is found in the product as it stands, and every growth is one it takes."""

import json

import pytest

from growtool.checkpoint import open_checkpoint
from growtool.checkpoint.reader import Checkpoint
from growtool.growing import execute
from growtool.recipe.choosing.consent import require_consent
from tests.bench.grow import MODELS, PLANS, plan_of
from tests.bench.measure import grow, write_sparse
from tests.bench.phases import PHASES
from tests.support import models
from tests.support.models import TINY, resolved, write_folder


def test_every_phase_is_found(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    models.plan_of(tmp_path, {"target": {"model_args": models.WIDER["vit"]}, "width": {"operator": "tile"}})
    before = Checkpoint.sha256, Checkpoint.read_stored, execute.make_tensor
    seconds = grow(str(source), str(tmp_path / "plan.yaml"), str(tmp_path / "out"))
    assert all(seconds[phase] > 0 for phase in PHASES)
    assert (Checkpoint.sha256, Checkpoint.read_stored, execute.make_tensor) == before


@pytest.mark.parametrize("name", PLANS)
def test_every_growth_keeps_the_function(name, tmp_path):
    """On a sparse file as large as those of the benchmark are wide; it takes no room on the disk."""
    size = {**MODELS["0.3"], "depth": 2}
    write_sparse(str(tmp_path / "source"), json.dumps(size))
    held = (tmp_path / "source" / "model.safetensors").stat()
    assert 512 * held.st_blocks < held.st_size / 100
    recipe = resolved(tmp_path / "source", plan_of(name, size))
    require_consent(recipe)
    assert recipe.promise.kind in ("exact", "exact up to eps")
    assert sum(info.numel for info in recipe.infos.values()) > 1.1 * held.st_size / 4
    assert not open_checkpoint(tmp_path / "source").read("blocks.0.mlp.fc1.weight").any()
