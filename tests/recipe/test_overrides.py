"""Overrides: other options for tensors whose names match, while everything that carries the same channels agrees."""

import pytest
import torch
from safetensors.torch import load_file

from growtool.errors import PlanError
from tests.support.models import TINY, WIDER, difference, grown, load, resolved, write_folder


def plan(overrides: list, operator: str = "tile", **options) -> dict:
    return {
        "target": {"model_args": dict(WIDER["vit"])},
        "width": {"operator": operator, **options},
        "overrides": overrides,
    }


def test_options_of_one_tensor(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    content = plan([{"match": "head.*", "width": {"operator": "tile", "split": "equal"}}])
    result = grown(source, content, tmp_path / "out")
    assert result.summary.promise == "exact"
    assert difference(load(source), load(result.out), TINY["vit"].inputs()) < 1e-10
    weights = load_file(result.out / "model.safetensors")
    assert torch.equal(weights["head.weight"][:, :8], weights["head.weight"][:, 8:])
    fc1 = weights["blocks.0.mlp.fc1.weight"]
    assert not torch.equal(fc1[:, :8], fc1[:, 8:])


def test_the_last_match_counts_and_another_operator_may_copy_alike(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    content = plan(
        [
            {"match": "blocks.*", "width": {"operator": "tile", "split": "equal"}},
            {"match": "blocks.1.*", "width": {"operator": "fpi"}},
        ]
    )
    recipe = resolved(source, content)
    operators = {name: tensor.width.operator for name, tensor in recipe.tensors.items() if tensor.width}
    assert operators["blocks.1.mlp.fc1.weight"] == "fpi" and operators["blocks.0.mlp.fc1.weight"] == "tile"
    assert recipe.promise.kind == "exact"


def test_a_mixture_among_other_operators_has_templates(tmp_path):
    """Blocks off the diagonal of the layers it makes, and nothing there of the others."""
    source = write_folder(TINY["resnet"].with_args(layers=[2, 2, 1, 1]), tmp_path / "source")
    content = {
        "target": {"model_args": dict(WIDER["resnet"])}, "width": {"operator": "tile", "split": "equal"},
        "overrides": [{"match": "layer1.*", "width": {"operator": "mixture", "gain": 0.5}}],
    }  # fmt: skip
    result = grown(source, content, tmp_path / "out")
    assert result.summary.promise == "exact"
    W = load_file(result.out / "model.safetensors")["layer1.1.conv1.weight"]
    assert float(W[:4, 4:].norm() / W[:4, :4].norm()) > 0.2
    assert not torch.equal(W[:4, :4], W[4:, 4:])


def test_overrides_have_one_bank(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    kinds = ({"bank": "sub_block"}, {})
    content = plan(
        [{"match": f"blocks.{n}.*", "width": {"operator": "mixture", **kind}} for n, kind in enumerate(kinds)]
    )
    with pytest.raises(PlanError, match=r"^overrides\[1\]\.width\.bank: .*; set it alike in every override$"):
        resolved(source, content)


def test_the_loss_of_an_override_is_told(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    recipe = resolved(source, plan([{"match": "blocks.0.mlp.fc1.*", "width": {"operator": "aki"}}], "fpi"))
    assert recipe.promise.reasons == (
        "aki takes the new rows of a layer from the next block, which computes something else",
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [{"match": "haed.*", "width": {"operator": "tile"}}],
            r"^overrides\[0\]\.match: 'haed\.\*' matches no tensor of the target, expected a pattern such as "
            r"'head\.\*'; did you mean 'head\.",
        ),
        (
            [{"match": "head.bias", "width": {"operator": "tile"}}],
            r"^overrides\[0\]\.match: 'head\.bias' matches 1 tensors, none of which grows; drop the override$",
        ),
        (
            [{"match": "head.*", "width": {"operator": "zero"}}],
            r"^overrides\[0\]\.width\.operator: zero grows .* otherwise than tile does",
        ),
        (
            [{"match": "head.*", "width": {"operator": "net2net"}}],
            r"^overrides\[0\]\.width\.operator: net2net grows .* otherwise than tile does, and whatever carries the "
            r"same channels has to agree",
        ),
    ],
)
def test_what_an_override_cannot_be(overrides, message, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    with pytest.raises(PlanError, match=message):
        resolved(source, plan(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([{"match": "x"}], r"overrides\[0\]\.width: missing, expected a mapping with an operator"),
        ([{"width": {"operator": "tile"}}], r"overrides\[0\]\.match: missing, expected a pattern for names of tensors"),
        (
            [{"match": "x", "width": {"operator": "tyle"}}],
            r"overrides\[0\]\.width\.operator: found 'tyle', expected one",
        ),
        ([{"match": "x", "width": {}}], r"overrides\[0\]\.width\.operator: missing, expected one of tile, net2net"),
        ([{"match": "x", "width": {"operator": "tile", "gian": 1.0}}], r"overrides\[0\]\.width\.gian: unknown key"),
        ([{"mtach": "x", "width": {"operator": "tile"}}], r"overrides\[0\]\.mtach: unknown key.* did you mean 'match'"),
        (
            [{"match": "x", "width": {"operator": "tile", "gain": 0}}],
            r"overrides\[0\]\.width\.gain: found 0, expected mor",
        ),
        ("x", r"overrides: "),
    ],
)
def test_mistakes_are_told_where_they_stand(overrides, message, tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    with pytest.raises(PlanError, match=message):
        resolved(source, plan(overrides))


def test_overrides_of_nothing(tmp_path):
    source = write_folder(TINY["vit"], tmp_path / "source")
    content = plan([{"match": "head.*", "width": {"operator": "tile"}}])
    del content["width"]
    with pytest.raises(PlanError, match="overrides: found overrides of nothing, expected `width` as well"):
        resolved(source, content)
