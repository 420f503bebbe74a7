"""The file of safetensors that timm itself would take in the place of a pickle."""

import pytest
from timm.models import PretrainedCfg, _hub

from growtool.library.timm.naming import published


@pytest.mark.parametrize("file", ["pytorch_model.bin", "open_clip_pytorch_model.bin", "other.bin", "m.safetensors", ""])
def test_the_file_is_the_one_that_timm_prefers(monkeypatch, file):
    config = PretrainedCfg(hf_hub_id="org/name", hf_hub_filename=file or None, num_classes=3)
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: config)
    expected = next(iter(_hub._get_safe_alternatives(file)), file) or "model.safetensors"
    assert published("resnet18").file == expected
