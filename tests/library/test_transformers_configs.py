"""Configurations as `save_pretrained` writes them: read, built from and written as they were."""

import json

import pytest

pytest.importorskip("transformers")

from growtool.errors import CheckpointError
from growtool.library import build
from growtool.library.building import shapes_of
from growtool.library.transformers.configs import read_config, written_config
from tests.support.transformers_families import FAMILIES, config_of


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_read_and_written_again(tmp_path, family):
    model = build(read_config(config_of(family), where="test"))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    spec = read_config(saved, where="test")
    assert shapes_of(build(spec)) == shapes_of(model)
    assert json.loads(json.dumps(written_config(spec), allow_nan=False)) == saved


@pytest.mark.parametrize("part", ["", "text_config."])
@pytest.mark.parametrize("told, method", [({"quant_method": "fp8"}, " by fp8"), ({"load_in_4bit": True}, "")])
def test_quantised_weights_are_refused_before_they_are_read(part, told, method):
    """The numbers that grow are not those in the file."""
    config = {"quantization_config": told}
    config = {"text_config": config} if part else config
    with pytest.raises(CheckpointError) as caught:
        read_config({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], **config}, where="x")
    assert str(caught.value) == (
        f"x: {part}quantization_config: found weights quantised{method}, expected plain ones; name the checkpoint that "
        "they were made from, or one that transformers has dequantised and saved"
    )


def test_a_configuration_that_its_class_refuses_is_told_by_who_builds_the_model():
    """Also one whose class computes how many blocks there are."""
    spec = read_config(config_of("nemotron-h") | {"hidden_size": "large"}, where="test")
    with pytest.raises(CheckpointError, match="transformers cannot build NemotronHForCausalLM"):
        build(spec)
