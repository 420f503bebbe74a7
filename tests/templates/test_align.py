"""Aligning neurons: the best assignment, the same function, and layers that are alike again once they were shuffled."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from growtool.checkpoint import build, open_checkpoint
from growtool.library.timm import input_size
from growtool.templates.align import align, best_assignment
from growtool.templates.grouping import like_tensors, templatable
from growtool.trace import trace_model
from tests.support.models import TINY, difference, load, write_folder


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_the_assignment_is_the_best_of_all(size):
    rows = torch.arange(size)
    for seed in range(6):
        score = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = float(score[rows, best_assignment(score)].sum())
        best = max(float(score[rows, torch.tensor(order)].sum()) for order in itertools.permutations(range(size)))
        assert found == pytest.approx(best, abs=1e-12)


def aligned(folder):
    checkpoint = open_checkpoint(folder)
    model = build(checkpoint.spec)
    trace = trace_model(model, input_size(model))
    groups = like_tensors(templatable(model, trace, checkpoint.tensors))
    return checkpoint, align(trace, checkpoint.tensors, groups, checkpoint.read)


@pytest.mark.parametrize("family", ["vit", "resnet", "convnext", "swin", "nfnet"])
def test_the_function_stays(family, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source")
    checkpoint, found = aligned(source)
    model = load(source)
    model.load_state_dict({name: found.read(name) for name in checkpoint.tensors}, strict=True)
    assert difference(load(source), model, TINY[family].inputs()) < 1e-12
    assert found.orders and found.after > found.before


def test_shuffled_copies_are_found(tmp_path):
    """Two blocks with the same weights, the hidden units of the second in another order."""
    source = write_folder(TINY["vit"], tmp_path / "source")
    path = source / "model.safetensors"
    weights = load_file(path)
    for name in [name for name in weights if name.startswith("blocks.1.")]:
        weights[name] = weights[name.replace("blocks.1.", "blocks.0.")].clone()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    for name, dim in (("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)):
        weights[f"blocks.1.mlp.{name}"] = weights[f"blocks.1.mlp.{name}"].index_select(dim, order)
    save_file(weights, path, {"format": "pt"})
    _, found = aligned(source)
    first, second = (found.read(f"blocks.{block}.mlp.fc2.weight") for block in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_command_says_what_it_wins(tmp_path, growtool):
    source = write_folder(TINY["vit"], tmp_path / "source", dtype=torch.float32)
    code, out, err = growtool("decompose", source, "--align", "-o", tmp_path / "t", "--json")
    assert code == 0, err
    document = json.loads(out)
    won = document["alignment"]
    assert won["sets"] > 0 and won["cosine_after"] > won["cosine_before"] and document["relative_difference"] < 1e-5
    code, out, _ = growtool("verify", source, tmp_path / "t")
    assert code == 0 and "same function" in out
