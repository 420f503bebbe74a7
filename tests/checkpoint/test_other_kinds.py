"""What people have that is no model of its own: adapters, pipelines, weights for llama.cpp, quantised weights."""

import json

import pytest
import torch
from safetensors.torch import save

from growtool.library import libraries
from tests.support.foreign import not_opened, refused

ADAPTER = save({"base_model.model.layers.0.q_proj.lora_A.weight": torch.zeros(2, 4)})
OTHERS = {
    "adapter": (
        {
            "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "me/large"}).encode(),
            "adapter_model.safetensors": ADAPTER,
        },
        "found an adapter of me/large, expected a whole model; merge it into the model it adapts (`merge_and_unload` "
        "of peft), save that, and grow it",
    ),
    "adapter of something": (
        {"adapter_config.json": b"[]", "adapter_model.safetensors": ADAPTER},
        "found an adapter, expected a whole model; merge it into the model it adapts (`merge_and_unload` of peft), "
        "save that, and grow it",
    ),
    "pipeline": (
        {"model_index.json": b"{}", "unet/diffusion_pytorch_model.safetensors": ADAPTER},
        "found a pipeline of diffusers, expected a model of {libraries}",
    ),
    "llama.cpp": (
        {"net-Q4_K_M.gguf": b"GGUF" + bytes(20), "net-Q8_0.gguf": b"GGUF" + bytes(20), "README.md": b""},
        "found net-Q4_K_M.gguf, which holds weights for llama.cpp, expected a model of {libraries}; name the "
        "checkpoint that it was made from",
    ),
}


@pytest.fixture(params=OTHERS.values(), ids=OTHERS.keys())
def other(request):
    """Files, and what is told of them; other tests may have registered libraries."""
    files, told = request.param
    return files, told.format(libraries=" or ".join(sorted(library.name for library in libraries())))


def test_a_folder_of_another_kind_says_which(tmp_path, other):
    files, told = other
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert not_opened(tmp_path) == f"{tmp_path}: {told}"
    weights = next(name for name in files if name.endswith((".safetensors", ".gguf")))
    if "/" not in weights:
        assert not_opened(tmp_path / weights) == f"{tmp_path / weights}: {told}"


def test_a_repository_of_another_kind_says_which(hub, other):
    files, told = other
    hub.add("me/other", files)
    assert refused("me/other") == f"me/other: {told}"
    assert hub.downloads() == []
