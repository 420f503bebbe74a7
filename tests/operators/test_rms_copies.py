"""`keep: rms`: copies that read something of their own, while every activation keeps its root mean square.

Every number of the sources is random and in float64; what holds in the mean over weights is averaged over seeds.
"""

import itertools
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from growtool.errors import PlanError
from growtool.operators.copies import share_of_like
from tests.support.models import TINY, Tiny, difference, grown, load, resolved, write_folder

VIT = TINY["vit"].with_args(embed_dim=32, num_heads=4)
CONVNEXT = TINY["convnext"].with_args(dims=[16, 16, 24, 24])
RESNET = Tiny("resnet18", {"layers": [2, 1, 1, 1], "channels": [16, 16, 24, 24], "num_classes": 5})
CASES = {
    "vit": (VIT, {"embed_dim": 64, "num_heads": 8}),
    "three copies": (VIT, {"embed_dim": 96, "num_heads": 12}),
    "convnext": (CONVNEXT, {"dims": [32, 32, 48, 48]}),
    "resnet": (RESNET, {"channels": [32, 32, 48, 48]}),
}


def rms(gain: float, operator: str = "tile") -> dict:
    return {"operator": operator, "keep": "rms", "gain": gain}


@torch.no_grad()
def mean_squares(model: nn.Module, tiny: Tiny) -> dict[str, float]:
    """Path of each module -> the mean of the squares of what it returns."""
    found: dict[str, float] = {}

    def seen(path: str):
        def hook(module: nn.Module, inputs: object, out: torch.Tensor) -> None:
            found[path] = float(out.square().mean())

        return hook

    hooks = [module.register_forward_hook(seen(path)) for path, module in model.named_modules()]
    model(tiny.inputs(8))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_activation_keeps_its_root_mean_square(case, tmp_path):
    """And the function is lost: the logits move."""
    tiny, args = CASES[case]
    before, after, moved = defaultdict(float), defaultdict(float), []
    for seed in range(4):
        source, out = write_folder(tiny, tmp_path / f"{seed}", seed=seed), tmp_path / f"{seed}-out"
        plan = {"target": {"model_args": args}, "width": rms(0.1), "seed": seed, "verify": False}
        assert grown(source, plan, out).summary.promise == "lossy"
        models = load(source), load(out)
        for total, model in zip((before, after), models, strict=True):
            for path, size in mean_squares(model, tiny).items():
                total[path] += size
        moved.append(difference(*models, tiny.inputs()))
    ratios = {path: (after[path] / before[path]) ** 0.5 for path in before}
    assert max(abs(ratio - 1) for ratio in ratios.values()) < 0.07, ratios
    assert min(moved) > 1e-2


@pytest.mark.parametrize("gain", [0.01, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("copies", [1, 2, 3, 5])
def test_what_is_read_of_copies_has_the_size_of_one(copies, gain):
    """The share makes up for how much copies agree: with their correlations added up, it comes to one."""
    c = (1 + gain**2) ** -0.5
    pairs = itertools.product(range(copies), repeat=2)
    agreeing = sum(1.0 if i == j else c ** ((i > 0) + (j > 0)) for i, j in pairs)
    assert float(share_of_like(torch.tensor(float(copies)), gain)) ** 2 * agreeing == pytest.approx(1)


@pytest.mark.parametrize(("gain", "power"), [(1e-6, -1.0), (1e6, -0.5)])
def test_equal_copies_are_shared_evenly_and_unlike_ones_by_their_root(gain, power):
    assert float(share_of_like(torch.tensor(3.0), gain)) == pytest.approx(3**power, rel=1e-5)


def test_the_function_is_kept_as_noise_goes_to_nothing(tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    grown(source, {"scale": {"width": 2}, "width": rms(1e-7)}, tmp_path / "out")
    assert difference(load(source), load(tmp_path / "out"), VIT.inputs()) < 1e-5


def test_the_first_copy_is_the_channel_and_no_other_is_like_it(tmp_path):
    source, gain = write_folder(VIT, tmp_path / "source"), 0.5
    grown(source, {"scale": {"width": 2}, "width": rms(gain)}, tmp_path / "out")
    W, grown_W = (
        load_file(folder / "model.safetensors")["blocks.1.mlp.fc1.weight"]
        for folder in (source, tmp_path / "out")
    )  # fmt: skip
    first, second = (grown_W / share_of_like(torch.tensor(2.0), gain)).chunk(2)
    for rows in (first, second):
        assert torch.equal(rows[:, : W.shape[1]], rows[:, W.shape[1] :])  # what is summed over is copied
    assert torch.allclose(first[:, : W.shape[1]], W)
    like = torch.nn.functional.cosine_similarity(second[:, : W.shape[1]], W)
    assert like.mean() == pytest.approx((1 + gain**2) ** -0.5, abs=0.03) and like.max() < 0.999
    assert float(second.square().mean()) == pytest.approx(float(W.square().mean()), rel=0.05)


def test_what_writes_single_channels_is_copied(tmp_path):
    source = write_folder(CONVNEXT, tmp_path / "source")
    grown(source, {"scale": {"width": 2}, "width": rms(0.5)}, tmp_path / "out")
    made = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("stages.1.blocks.0.conv_dw.weight", "stages.1.blocks.0.conv_dw.bias", "stages.1.blocks.0.norm.weight"):
        first, second = made[name].chunk(2)
        assert torch.equal(first, second)
    first, second = made["stem.0.weight"].chunk(2)
    assert not torch.isclose(first, second).all(dim=(1, 2, 3)).any()


def test_it_is_lossy_by_name_and_needs_noise(tmp_path):
    source = write_folder(VIT, tmp_path / "source")
    for operator in ("tile", "net2net", "fpi"):
        promise = resolved(source, {"scale": {"width": 2}, "width": rms(0.1, operator)}).promise
        assert promise.kind == "lossy" and not promise.accidents
        assert "keep: rms keeps the size of activations, not the function" in promise.reasons
    with pytest.raises(PlanError, match=r"width\.keep: found rms with split equal, which leaves copies equal"):
        resolved(Path(source), {"scale": {"width": 2}, "width": {"operator": "tile", "split": "equal", "keep": "rms"}})
