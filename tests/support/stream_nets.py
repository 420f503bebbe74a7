"""Small networks around one operation under test: a stem writes a stream, something reads and adds to it, a head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from growtool.checkpoint import ModelSpec
from growtool.errors import GrowtoolError
from growtool.growing.execute import grown_tensors
from growtool.library.building import set_eps
from growtool.plan.schema import Plan
from growtool.recipe import Recipe
from growtool.recipe.matching import match
from growtool.recipe.resolve import recipe_of
from growtool.recipe.traced_model import TracedModel
from growtool.trace import trace_built
from tests.support.models import randomise_
from tests.zoo.proofs import InMemory


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """The parts; `forward` puts them together, a function of (self, stream [N, tokens, width])."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.stem, self.fc, self.out = (
            nn.Conv2d(3, width, 4, 4),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.norm, self.last, self.head = nn.LayerNorm(width), nn.LayerNorm(width), nn.Linear(width, 3)
        self.bare, self.rms = nn.LayerNorm(width, elementwise_affine=False), nn.RMSNorm(width, eps=1e-5)
        self.batch, self.wide = nn.BatchNorm1d(width), nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.bare_rms = nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)
        self.g = nn.Parameter(torch.ones(width))
        self.again = self.out
        self.run, self.num_classes, self.pretrained_cfg = forward, 3, {"input_size": (3, 8, 8)}

    def forward(self, image):
        x = self.stem(image).flatten(2).transpose(1, 2)  # [N, tokens, width]
        return self.head(self.run(self, x))

    def branch(self, x):
        return self.out(torch.relu(self.fc(x)))


class Headless(Net):
    """The same without a head: what ran is returned."""

    def __init__(self, width: int, forward) -> None:
        super().__init__(width, forward)
        self.head, self.num_classes = nn.Identity(), 0


def pooled(x):
    return x.mean(1)


def recipe_between(
    forward, operator: str, before: int = 4, after: int = 7, net: Callable[..., nn.Module] = Net
) -> tuple[nn.Module, nn.Module, Recipe]:
    models = [net(width, forward).eval() for width in (before, after)]
    spec = ModelSpec("test_vit")
    source, target = (TracedModel(spec, model, trace_built(spec, model)) for model in models)
    models = [randomise_(model.double()) for model in models]
    plan = Plan.model_validate({"target": {"model": "test_vit"}, "width": {"operator": operator}})
    return *models, recipe_of(plan, InMemory.of(spec, models[0]), match(source, target, None))


@torch.no_grad()
def apart(small: nn.Module, large: nn.Module, recipe: Recipe) -> float:
    state = grown_tensors(recipe)
    large.load_state_dict(state)
    set_eps(large, recipe.eps)
    images = random(4, 3, 8, 8)
    expected, found = small(images), large(images)
    [[*_, features]] = recipe.outputs
    found, expected = found[:, features.kept], expected[:, features.index[features.kept]]
    return float((found - expected).abs().max() / expected.abs().max())


def wrong(seed: int, operator: str, before: int, after: int, net: Callable[..., nn.Module]) -> float | None:
    """How far a growth of a net (width, seed) is off that is promised to be exact; None where it is not."""
    try:
        small, large, recipe = recipe_between(seed, operator, before, after, net=net)
    except GrowtoolError:
        return None
    return apart(small, large, recipe) if recipe.promise.kind == "exact" else None
