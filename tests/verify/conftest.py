"""What the tests of the comparison compare."""

import pytest
import timm

from growtool.checkpoint import Checkpoint, open_checkpoint
from tests.support.models import randomise_, saved


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A ViT of five classes for images of 160 pixels, every number random."""
    model = randomise_(timm.create_model("test_vit", num_classes=5).eval())
    return open_checkpoint(saved(model, tmp_path_factory.mktemp("vit"), num_classes=5))
