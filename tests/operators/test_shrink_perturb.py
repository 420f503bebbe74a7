"""`shrink_perturb`: W' = lambda pad(W) + V for every matrix of the target, whatever grows.

Every number of the sources is random and in float64.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from growtool.errors import PlanError
from growtool.library import library_of
from growtool.recipe import Recipe
from tests.support.models import TINY, TINY_RESNET, Tiny, grown, resolved, write_folder

RESNET = Tiny("resnet18", TINY_RESNET)
WIDER = {"channels": [6, 12, 12, 16]}
DEEPER = {"layers": [2, 2, 1, 1]}


def padded(W: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """W with zeros beside it, and where W stands."""
    corner = tuple(slice(size) for size in W.shape)
    zeros, old = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
    zeros[corner], old[corner] = W, True
    return zeros, old


def parts(source: Path, plan: dict, out: Path) -> tuple[Recipe, dict[str, Tensor], dict[str, Tensor]]:
    """The recipe, what was written, and the initial values of the target."""
    recipe = resolved(source, plan)
    grown(source, plan, out)
    initial = library_of(recipe.target).initialised(recipe.target, recipe.plan.seed).state_dict()
    return recipe, load_file(out / "model.safetensors"), initial


@pytest.mark.parametrize("keys", [("width",), ("depth",), ("width", "depth")], ids=str)
@pytest.mark.parametrize("args", [WIDER, DEEPER, WIDER | DEEPER], ids=["wider", "deeper", "both"])
def test_a_resnet_is_shrunk_padded_and_perturbed(args, keys, tmp_path):
    """Under either key and under both; `shrink` is lambda."""
    source = write_folder(RESNET, tmp_path / "source")
    operator = {"operator": "shrink_perturb", "shrink": 0.25}
    plan = {"target": {"model_args": args}, "seed": 3, **{key: dict(operator) for key in keys}}
    recipe, made, initial = parts(source, plan, tmp_path / "out")
    before = load_file(source / "model.safetensors")
    assert recipe.promise.kind == "lossy" and not recipe.promise.accidents
    for name, V in initial.items():
        if name not in before:
            assert recipe.blocks.is_new(name) and torch.equal(made[name].double(), V.double()), name
        elif not V.is_floating_point():
            assert torch.equal(made[name], before[name])
        else:
            zeros, old = padded(before[name], V.shape)
            matrix = sum(size > 1 for size in V.shape) > 1
            expected = 0.25 * zeros + V.double() if matrix else torch.where(old, zeros, V.double())
            assert torch.allclose(made[name], expected, rtol=1e-12, atol=1e-12), name
    assert set(recipe.blocks.new) == ({"layer1.1", "layer2.1"} if "layers" in args else set())
    assert not any(tensor.zero for tensor in recipe.tensors.values())


def test_heads_are_padded_by_number(tmp_path):
    """Rows of queries, keys and values lie head by head: initial values alone stand after those of the old heads."""
    tiny = TINY["vit"]
    source = write_folder(tiny, tmp_path / "source")
    plan = {"target": {"model_args": {"embed_dim": 12, "num_heads": 3, "depth": 3}}, "width": "shrink_perturb"}
    _, made, initial = parts(source, plan, tmp_path / "out")
    W = load_file(source / "model.safetensors")["blocks.0.attn.qkv.weight"].reshape(3, 2, 4, 8)
    expected = initial["blocks.0.attn.qkv.weight"].double().reshape(3, 3, 4, 12).clone()
    expected[:, :2, :, :8] += 0.4 * W
    assert torch.allclose(made["blocks.0.attn.qkv.weight"].reshape(3, 3, 4, 12), expected)
    assert torch.equal(made["blocks.2.mlp.fc1.weight"].float(), initial["blocks.2.mlp.fc1.weight"])


def test_another_operator_beside_it_is_refused_where_it_makes_the_whole(tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    plan = {"target": {"model_args": WIDER | DEEPER}, "depth": "shrink_perturb", "width": "net2net"}
    with pytest.raises(PlanError, match="makes every tensor of the target, expected the same under `width`"):
        resolved(source, plan)
    plan = {"target": {"model_args": WIDER | DEEPER}, "depth": "zero_out", "width": "shrink_perturb"}
    recipe = resolved(source, plan)
    assert recipe.tensors["layer1.1.bn2.weight"].zero


def test_the_command_takes_it_for_both(growtool, tmp_path):
    source = write_folder(RESNET, tmp_path / "source")
    options = ["--width", "2", "--depth", "2", "--operator", "shrink_perturb"]
    code, out, err = growtool("grow", source, *options, "-o", tmp_path / "out")
    assert code == 0, err
    assert "nothing to do" not in out + err
    again = growtool("grow", source, tmp_path / "out" / "plan.yaml", "-o", tmp_path / "again")
    assert again[0] == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == second
    code, _, err = growtool("grow", source, *options, "--operator", "tile", "-o", tmp_path / "other")
    assert code == 1 and "found shrink_perturb for the width already" in err
