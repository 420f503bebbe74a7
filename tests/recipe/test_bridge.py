"""Projections that only the target has: filled so that they pass the source's channels on.

The invariant is that of every exact growth: with all numbers random in float64, the model timm builds for the target
computes what the source computes.
"""

import pytest
from torch import nn

from growtool.checkpoint import ModelSpec
from growtool.errors import PlanError
from growtool.plan import Plan
from growtool.recipe import resolve
from tests.support.stream_nets import apart, recipe_between
from tests.zoo.proofs import InMemory, growth_proof, source_model

RESNET = {"channels": [64, 8, 8, 8], "layers": [2, 1, 1, 1], "num_classes": 5}


def recipe_of(spec, **plan):
    model = source_model(spec)
    return model, resolve(Plan.model_validate(plan), InMemory.of(spec, model))


@pytest.mark.parametrize(
    ("width", "operator"),
    [(2.0, {"operator": "tile"}), (2.0, {"operator": "mixture"}), (1.25, {"operator": "net2net"})],
)
def test_a_resnet_wider_than_its_stem_keeps_its_function(width, operator):
    model, recipe = recipe_of(ModelSpec("resnet18", RESNET), target={"scale": {"width": width}}, width=operator)
    bridge = recipe.tensors["layer1.0.downsample.0.weight"]
    assert bridge.source is None and not bridge.is_copy
    assert recipe.promise.kind == "exact"
    assert growth_proof(model, recipe).error < 1e-12


def test_bridges_and_new_blocks_go_together():
    model, recipe = recipe_of(
        ModelSpec("resnet18", RESNET),
        target={"scale": {"width": 2.0, "depth": (3, 1, 1, 1)}},
        width={"operator": "mixture"},
        depth={"operator": "zero_out"},
    )
    assert recipe.promise.kind == "exact"
    assert len(recipe.blocks.new) == 1
    assert growth_proof(model, recipe).error < 1e-12


def test_a_projection_of_the_normalised_stream_is_no_bridge():
    spec = ModelSpec("resnetv2_18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_chs": 8, "num_classes": 5})
    with pytest.raises(PlanError, match=r"stages\.0\.blocks\.0\.downsample.*without counterpart in the source"):
        recipe_of(spec, target={"model_args": {"stem_chs": 16}}, width={"operator": "tile"})


class Projected(nn.Module):
    """A stem of 4 channels and a branch of `width`; where these are more, the shortcut needs a projection."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, width, 3, padding=1), nn.Linear(width, 3)
        self.norm, self.pool, self.wider = nn.BatchNorm2d(4), nn.MaxPool2d(3, 1, 1), width > 4
        self.down = nn.Sequential(nn.Conv2d(4, width, 1), nn.BatchNorm2d(width)) if self.wider else nn.Identity()
        self.run, self.num_classes, self.pretrained_cfg = forward, 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        return self.head(self.run(self, self.stem(image)).mean((2, 3)))


def written_before(s, x):
    shortcut = s.down(x)
    x.mul_(2)
    return s.fc(x) + shortcut


def written_after(s, x):
    shortcut = s.down(x)
    y = s.fc(x)
    shortcut.mul_(2)
    return y + shortcut


PASSING = {
    "at once": lambda s, x: s.fc(x) + s.down(x),
    "of a pooled stream": lambda s, x: s.fc(s.pool(x)) + s.down(s.pool(x)),
    "of a rectified stream": lambda s, x: s.fc(x) + s.down(x.relu()),
    "around an odd branch": lambda s, x: s.fc(x).sin() * s.down(x),
    "read twice": lambda s, x: s.down(x) * (s.fc(x) + s.down(x)) if not s.wider else (d := s.down(x)) * (s.fc(x) + d),
}
ELSE = {
    "of a norm instead": lambda s, x: s.fc(s.norm(x)) + (s.down(s.norm(x)) if s.wider else x),
    "of what is rectified in the target": lambda s, x: s.fc(x.relu()) + (s.down(x.relu()) if s.wider else x),
    "of another stream": lambda s, x: s.fc(x.relu()) + s.down(x.relu() if s.wider else s.norm(x)),
    "nothing in the source": lambda s, x: s.fc(x) + s.down(x) if s.wider else s.fc(x),
    "the stream changes after it was read": written_before,
    "the result changes before it is read": written_after,
    "rectified after": lambda s, x: s.fc(x) + (s.down(x).relu() if s.wider else x),
    "one of two": lambda s, x: s.fc(x) + s.down(x) + s.down(x.tanh()),
    "with its weight read": lambda s, x: s.fc(x) + s.down(x) * (s.down[0].weight.sum() if s.wider else 1),
}


@pytest.mark.parametrize("operator", ["tile", "mixture"])
@pytest.mark.parametrize("name", PASSING)
def test_what_the_source_passes_on_is_projected(name, operator):
    small, large, recipe = recipe_between(PASSING[name], operator, 4, 8, net=Projected)
    assert recipe.promise.kind == "exact", recipe.promise
    assert apart(small, large, recipe) < 1e-12


@pytest.mark.parametrize("name", ELSE)
def test_what_it_does_not_pass_on_is_not_promised(name):
    try:
        small, large, recipe = recipe_between(ELSE[name], "tile", 4, 8, net=Projected)
    except PlanError as error:
        assert "counterpart" in str(error)
    else:
        assert recipe.promise.kind == "lossy" and apart(small, large, recipe) > 1e-6


FAMILIES = {
    "the stream in parts": (ModelSpec("skresnet18", RESNET), {"scale": {"width": 2.0}}),
    "out of a blurred pool": (ModelSpec("resnetblur18", RESNET), {"scale": {"width": 2.0}}),
    "after a pool, without a norm": (
        ModelSpec("coatnext_nano_rw_224", {"embed_dim": [64] * 4, "depths": [1] * 4, "num_classes": 5}),
        {"model_args": {"embed_dim": [128] * 4}},
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    spec, target = FAMILIES[name]
    model, recipe = recipe_of(spec, target=target, width={"operator": "mixture"})
    assert recipe.matching.bridges
    assert recipe.promise.kind == "exact"
    assert growth_proof(model, recipe).error < 1e-12
