"""Every width operator on six families: what is promised, what comes out, and the numbers of a golden file.

The table below is what theory allows: whole multiples for all, off them BatchNorm networks by copies or blanks,
pre-LayerNorm transformers up to eps, and nothing for ConvNeXt, MLP-Mixer (tokens are mixed channel by channel) and
Swin's first stage. `python tests/test_families.py` writes the golden file anew.
"""

import json
import tempfile
from pathlib import Path

import pytest
from models import TINY, WIDER, Tiny, grown, write_folder
from safetensors.torch import load_file

from growtool.plan.width import WIDTH_OPERATORS

GOLDEN = Path(__file__).parent / "golden_widths.json"
MIXER = Tiny(
    "growtool_open",
    {"base": "mixer_s32_224", "img_size": 64, "embed_dim": 8, "num_blocks": 2, "num_classes": 5},
    64,
)
# family -> model, arguments for twice its width, for a width between
FAMILIES: dict[str, tuple[Tiny, dict, dict]] = {
    "resnet": (TINY["resnet"], dict(WIDER["resnet"]), {"channels": [6, 11, 12, 15]}),
    "vit": (TINY["vit"], dict(WIDER["vit"]), {"embed_dim": 20, "num_heads": 5}),
    "convnext": (TINY["convnext"], dict(WIDER["convnext"]), {"dims": [6, 8, 10, 12]}),
    "swin": (TINY["swin"], dict(WIDER["swin"]), {"embed_dim": 12, "num_heads": [3, 3]}),
    "efficientnet": (TINY["efficientnet"], {"channel_multiplier": 2.0}, {"channel_multiplier": 1.5}),
    "mixer": (MIXER, {"embed_dim": 16}, {"embed_dim": 12}),
}
WHOLE = ("tile", "mixture", "fpi", "aki", "two_source")  # the others are asked for a width between
EXACT, EPS, LOSSY = "exact", "exact up to eps", "lossy"
EXPECTED = {
    "tile": dict.fromkeys(FAMILIES, EXACT),
    "mixture": dict.fromkeys(FAMILIES, EXACT),
    "fpi": dict.fromkeys(FAMILIES, EXACT),
    "aki": dict.fromkeys(FAMILIES, LOSSY),
    "random": dict.fromkeys(FAMILIES, LOSSY),
    "two_source": {**dict.fromkeys(FAMILIES, LOSSY), "efficientnet": EXACT},
    "net2net": {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT},
    **{
        name: {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT, "vit": EPS}
        for name in ("centre_zero", "lemon", "zero", "variance_transfer")
    },
}


def grow_one(family: str, operator: str, folder: Path):
    tiny, whole, between = FAMILIES[family]
    source = write_folder(tiny, folder / "source")
    plan = {"target": {"model_args": whole if operator in WHOLE else between}, "width": {"operator": operator}}
    if operator == "two_source":
        plan["second"] = str(write_folder(tiny, folder / "second", seed=5))
    return grown(source, plan, folder / "out")


def figures(folder: Path) -> dict[str, list[float]]:
    """Sum and sum of sizes of a few tensors."""
    weights = load_file(folder / "model.safetensors")
    names = (
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.1.mlp.fc2.weight",
        "norm.weight",
        "head.bias",
    )
    return {name: [float(weights[name].sum()), float(weights[name].abs().sum())] for name in names}


ON_IMAGES = {"ligo", "gradmax"}


def test_the_table_names_every_operator():
    assert EXPECTED.keys() | ON_IMAGES == WIDTH_OPERATORS.keys()


@pytest.mark.parametrize("operator", EXPECTED)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_promised_is_kept(family, operator, tmp_path):
    result = grow_one(family, operator, tmp_path)
    expected = EXPECTED[operator][family]
    assert result.summary.promise == expected, result.summary.reasons
    assert result.proof is not None
    decisive = result.proof.with_eps or result.proof.comparison
    assert expected == LOSSY or decisive.relative_difference < 1e-11
    if family == "vit":
        for name, numbers in json.loads(GOLDEN.read_text())[operator].items():
            assert figures(result.out)[name] == pytest.approx(numbers, rel=1e-9, abs=1e-9), name


if __name__ == "__main__":
    golden = {}
    for chosen in EXPECTED:
        with tempfile.TemporaryDirectory() as name:
            golden[chosen] = figures(grow_one("vit", chosen, Path(name)).out)
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
