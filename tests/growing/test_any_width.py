"""Widths that are no multiples, on whole families: blanks in streams beside copies of hidden units and heads.

Every number of the sources is random and in float64.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from growtool.library.timm.reach import growtool_open
from tests.support.models import TINY, WIDER, Tiny, difference, grown, load, resolved, write_folder

EXACT = 1e-11
OPERATORS = ("centre_zero", "lemon", "zero")


FAMILIES = {
    "vit": {"embed_dim": 20, "num_heads": 5},
    "vit_scaled": {"embed_dim": 20, "num_heads": 5},
    "eva": {"embed_dim": 12, "num_heads": 3},
    "cait": {"embed_dim": 12, "num_heads": 3},
}


def plan(args: dict, operator: str, **options) -> dict:
    return {"target": {"model_args": dict(args)}, "width": {"operator": operator, **options}}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_of_any_width_keep_the_function(family, operator, tmp_path):
    """Told every eps, to rounding; with timm's own eps, as near as predicted."""
    source = write_folder(TINY[family], tmp_path / "source")
    told = grown(source, plan(FAMILIES[family], operator, eps="told"), tmp_path / "told")
    assert told.summary.promise == "exact"
    assert difference(load(source), load(told.out), TINY[family].inputs()) < EXACT
    kept = grown(source, plan(FAMILIES[family], operator), tmp_path / "kept")
    assert kept.summary.promise == "exact up to eps" and "1e-06 and would have to be" in kept.summary.reasons[0]
    assert kept.proof is not None and kept.proof.with_eps is not None
    assert kept.proof.with_eps.relative_difference < EXACT < kept.proof.comparison.relative_difference < 1e-4


@pytest.mark.parametrize("operator", OPERATORS)
def test_batchnorm_networks_of_any_width_keep_the_function(operator, tmp_path):
    source = write_folder(TINY["resnet"], tmp_path / "source")
    result = grown(source, plan({"channels": [5, 11, 13, 14]}, operator), tmp_path / "out")
    assert result.summary.promise == "exact"
    before, after = load(source), load(result.out)
    inputs = TINY["resnet"].inputs(4)
    assert difference(before, after, inputs) < EXACT
    if operator != "zero":  # statistics of the batch are those of the copies; a unit at zero has none
        assert difference(before.train(), after.train(), inputs) < 1e-9


@pytest.mark.parametrize("operator", OPERATORS)
def test_whole_multiples_need_no_eps(operator, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    found = resolved(source, plan(WIDER["vit"], operator)).promise.kind
    assert found == ("exact up to eps" if operator == "zero" else "exact")


@pytest.mark.parametrize(
    ("family", "args", "reason"),
    [
        ("swin", {"embed_dim": 12, "num_heads": [3, 3]}, "patch_embed.norm: a norm writes the channels"),
        ("convnext", {"dims": [6, 8, 10, 12]}, "LayerNorm over channels that are not all copied equally often"),
    ],
)
def test_where_no_form_is_exact_the_plan_says_why(family, args, reason, tmp_path):
    source = write_folder(TINY[family], tmp_path / "source")
    found = resolved(source, plan(args, "centre_zero")).promise
    assert found.kind == "lossy" and any(reason in line for line in found.reasons), found


def test_the_later_stages_of_swin_are_exact(tmp_path):
    """Only the first stage has a stream that a norm writes; merged patches, a norm over 4 C, pass."""
    tiny = TINY["swin"]
    source = write_folder(tiny, tmp_path / "source")
    recipe = resolved(source, plan({"embed_dim": 12, "num_heads": [3, 3]}, "centre_zero"))
    factors = {name: t.rewrite.factor for name, t in recipe.tensors.items() if t.rewrite and t.rewrite.factor != 1}
    assert factors["layers.1.downsample.norm.weight"] == pytest.approx(math.sqrt(8 / 12))
    assert len(recipe.promise.reasons) == 1


def test_growing_in_steps_is_growing_at_once(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "a")
    grown(source, plan({"embed_dim": 12, "num_heads": 3}, "centre_zero", eps="told"), tmp_path / "b")
    grown(tmp_path / "b", plan({"embed_dim": 20, "num_heads": 5}, "centre_zero", eps="told"), tmp_path / "c")
    assert difference(load(source), load(tmp_path / "c"), TINY["vit"].inputs()) < EXACT


def test_blocks_and_channels_grow_together(tmp_path):
    tiny = TINY["vit_scaled"]
    source = write_folder(tiny, tmp_path / "source")
    content = plan({"embed_dim": 20, "num_heads": 5, "depth": 4}, "centre_zero", eps="told")
    result = grown(source, {**content, "depth": {"operator": "zero_out"}}, tmp_path / "out")
    assert result.summary.promise == "exact"
    assert difference(load(source), load(result.out), tiny.inputs()) < EXACT


def test_eps_that_no_norm_has_is_refused():
    with pytest.raises(TypeError, match=r"eps_of: blocks\.0\.mlp is not a norm of this model"):
        growtool_open("test_vit", eps_of={"blocks.0.mlp": 1e-6})
    assert growtool_open("test_vit", eps_of={"norm": 1e-3}).norm.eps == 1e-3


def gradients(folder: Path, tiny: Tiny) -> dict[str, Tensor]:
    model = load(folder)
    logits = model(tiny.inputs())
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_new_channel_is_dead(operator, tmp_path):
    """At the first step, or one step later, every new row of every matrix has a gradient."""
    tiny = TINY["vit"]
    source = write_folder(tiny, tmp_path / "source")
    result = grown(source, plan(FAMILIES["vit"], operator), tmp_path / "out")
    model = load(result.out)
    reached: dict[str, Tensor] = {}
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(tiny.inputs()), torch.arange(2))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                alive = parameter.grad.flatten(1).any(1) if parameter.ndim > 1 else parameter.grad != 0
                reached[name] = reached.get(name, torch.zeros_like(alive)) | alive
                parameter -= 0.05 * parameter.grad
    dead = {name: int((~alive).sum()) for name, alive in reached.items() if not alive.all() and "k.bias" not in name}
    # the bias of keys has no effect under a softmax over keys
    third = 20
    assert dead.keys() <= {f"blocks.{i}.attn.qkv.bias" for i in range(2)}, dead
    assert all(count <= third for count in dead.values())


def test_a_norm_that_writes_the_stream_loses_less_than_uneven_copies(tmp_path):
    tiny = TINY["swin"]
    source = write_folder(tiny, tmp_path / "source")
    lost = {}
    for operator in ("centre_zero", "net2net"):
        lossy = plan({"embed_dim": 12, "num_heads": [3, 3]}, operator) | {"allow_lossy": True}
        result = grown(source, lossy, tmp_path / operator)
        lost[operator] = difference(load(source), load(result.out), tiny.inputs())
    assert 1e-3 < lost["centre_zero"] < lost["net2net"] / 2


@pytest.mark.parametrize("operator", OPERATORS)
def test_whole_multiples_of_swin_are_left_to_copies_where_blanks_would_lose(operator, tmp_path):
    source = write_folder(TINY["swin"], tmp_path / "source")
    assert resolved(source, plan(WIDER["swin"], operator, eps="told")).promise.kind == "exact"
