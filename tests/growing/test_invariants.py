"""What holds of every exact growth, on six families: inside the network, in training, and step upon step.

The logits alone could agree by luck or by a norm at the end; here every layer that writes channels is looked at, and
those that differ are named. Every number is random and in float64.
"""

import functools

import pytest
import torch
from torch import Tensor, nn

from growtool.growing.statistics import in_memory
from growtool.library.building import set_eps
from growtool.recipe import Recipe
from tests.support.golden_widths import EXPECTED, FAMILIES, LOSSY, ON_IMAGES, REFUSED, WHOLE
from tests.support.models import difference, grown, load, resolved, write_folder

EXACT = 1e-9
KEPT = [
    (family, operator)
    for operator, kinds in EXPECTED.items()
    for family, kind in kinds.items()
    if kind not in (LOSSY, REFUSED) and operator not in ("two_source", *ON_IMAGES)  # two halves are not the source's
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Family and operator -> source, target with the eps that makes it exact, and the recipe."""

    @functools.cache
    def make(family: str, operator: str) -> tuple[nn.Module, nn.Module, Recipe]:
        tiny, whole, between = FAMILIES[family]
        source = write_folder(tiny, tmp_path_factory.mktemp("source") / "a")
        args = whole if operator in WHOLE else between
        recipe = resolved(source, {"target": {"model_args": args}, "width": {"operator": operator}})
        target = in_memory(recipe)
        set_eps(target, recipe.eps)
        return load(source), target, recipe

    return make


def written(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What every layer with a weight puts out, channels last."""
    found: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module):
        channels = 1 if isinstance(module, nn.Conv2d) or type(module).__name__.endswith(("2d", "Act")) else -1

        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            found[path] = out.detach().clone().movedim(channels, -1)

        return hook

    layers = {p: m for p, m in model.named_modules() if isinstance(getattr(m, "weight", None), nn.Parameter)}
    handles = [module.register_forward_hook(keep(path, module)) for path, module in layers.items()]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found


def expanded(recipe: Recipe, path: str, old: Tensor) -> Tensor:
    """`E h`, channels last: copies of the old channels, zeros at blank ones."""
    rows = recipe.tensors[f"{path}.weight"].maps[0]
    new = old.new_zeros(*old.shape[:-1], len(rows.index))
    new[..., rows.kept] = old[..., rows.index[rows.kept]]
    if "mlp_tokens" in path:  # mixes tokens, channel by channel: those stand before
        new = new.index_select(1, recipe.tensors["norm.weight"].maps[0].index)
    return new


@pytest.mark.parametrize(("family", "operator"), KEPT)
def test_every_layer_writes_the_expanded_channels(family, operator, pair):
    """`h' = E h` after each of them; where a stream is centred, `E C h`."""
    source, target, recipe = pair(family, operator)
    inputs = FAMILIES[family][0].inputs(2)
    before, after = written(source, inputs), written(target, inputs)
    broken, grown = [], 0
    for path, new in after.items():
        old = before[recipe.blocks.source_name(path)]
        kept = recipe.tensors[f"{path}.weight"].maps[0].kept
        found, grown = new[..., kept], grown + (new.shape != old.shape)
        forms = (expanded(recipe, path, h)[..., kept] for h in (old, old - old.mean(-1, keepdim=True)))
        if min(float((found - form).abs().max()) for form in forms) > EXACT * float(old.abs().max()):
            broken.append(path)
    assert not broken, broken
    assert grown > 5, "too little grew to prove anything"


@pytest.mark.parametrize(("family", "operator"), KEPT)
def test_training_mode_keeps_the_function_too(family, operator, pair):
    """No dropout; BatchNorm takes its statistics from the batch, which are those of the copies."""
    source, target, _ = pair(family, operator)
    inputs = FAMILIES[family][0].inputs(4)
    for module in (*source.modules(), *target.modules()):
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    state = {model: {k: v.clone() for k, v in model.state_dict().items()} for model in (source, target)}
    try:
        assert difference(source.train(), target.train(), inputs) < EXACT
    finally:
        for model, kept in state.items():
            model.load_state_dict(kept)
            model.eval()


STEPS = {
    "resnet": [{"channels": [8, 16, 16, 24]}, {"channels": [16, 32, 32, 48]}],
    "vit": [{"embed_dim": 16, "num_heads": 4}, {"embed_dim": 32, "num_heads": 8}],
    "convnext": [{"dims": [8, 12, 16, 16]}, {"dims": [16, 24, 32, 32]}],
    "swin": [{"embed_dim": 16, "num_heads": [4, 4]}, {"embed_dim": 32, "num_heads": [8, 8]}],
    "efficientnet": [{"channel_multiplier": 2.0}, {"channel_multiplier": 4.0}],
    "mixer": [{"embed_dim": 16}, {"embed_dim": 32}],
}
TOLD = ("lemon", "centre_zero", "zero")


@pytest.mark.parametrize(
    ("family", "operator"),
    [
        *((family, "tile") for family in STEPS),
        *(("vit", operator) for operator in ("mixture", "fpi", *TOLD)),
        *(("resnet", operator) for operator in ("net2net", "variance_transfer", *TOLD)),
    ],
)
def test_two_steps_compute_what_one_computes(family, operator, tmp_path):
    tiny, (first, last) = FAMILIES[family][0], STEPS[family]
    source = write_folder(tiny, tmp_path / "a")
    width = {"operator": operator} | ({"eps": "told"} if operator in TOLD else {})
    grown(source, {"target": {"model_args": first}, "width": width, "verify": False}, tmp_path / "b")
    plan = {"target": {"model_args": last}, "width": width}
    models = []
    for start in (tmp_path / "b", source):
        recipe = resolved(start, plan)
        assert recipe.promise.kind == "exact"
        models.append(in_memory(recipe))
        set_eps(models[-1], recipe.target.model_args.get("eps_of", {}))
    assert difference(*models, tiny.inputs()) < EXACT
    assert difference(load(source), models[0], tiny.inputs()) < EXACT
