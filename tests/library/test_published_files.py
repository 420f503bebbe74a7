"""The file of safetensors that timm itself would take in the place of a pickle."""

import pytest
from timm.models import PretrainedCfg

from growtool.library.timm.naming import published


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (None, "model.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
        ("other.bin", "other.safetensors"),
        ("other.safetensors", "other.safetensors"),
    ],
)
def test_the_file_is_the_one_that_timm_prefers(monkeypatch, file, expected):
    config = PretrainedCfg(hf_hub_id="org/name", hf_hub_filename=file, num_classes=3)
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: config)
    assert published("resnet18").file == expected
