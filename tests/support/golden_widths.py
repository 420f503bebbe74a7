"""What every width operator makes of six tiny families.

`python -m tests.support.golden_widths` writes the record anew.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from growtool.errors import PlanError
from growtool.operators import explain
from growtool.plan.width import WIDTH_OPERATORS
from tests.support.finetune import write_images
from tests.support.models import TINY, WIDER, Tiny, grown, write_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "widths.json"
SHOWN = Path(explain.__file__).parent / explain.MEASURED  # what `growtool explain` shows of it
MIXER = Tiny(
    "growtool_open",
    {"base": "mixer_s32_224", "img_size": 64, "embed_dim": 8, "num_blocks": 2, "num_classes": 5},
    64,
)
# family -> model, arguments for twice its width, for a width between
FAMILIES: dict[str, tuple[Tiny, dict[str, Any], dict[str, Any]]] = {
    "resnet": (TINY["resnet"], dict(WIDER["resnet"]), {"channels": [6, 11, 12, 15]}),
    "vit": (TINY["vit"], dict(WIDER["vit"]), {"embed_dim": 20, "num_heads": 5}),
    "convnext": (TINY["convnext"], dict(WIDER["convnext"]), {"dims": [6, 8, 10, 12]}),
    "swin": (TINY["swin"], dict(WIDER["swin"]), {"embed_dim": 12, "num_heads": [3, 3]}),
    "efficientnet": (TINY["efficientnet"], {"channel_multiplier": 2.0}, {"channel_multiplier": 1.5}),
    "mixer": (MIXER, {"embed_dim": 16}, {"embed_dim": 12}),
}
# a target with wider hidden layers alone, where the constructor reaches one
HIDDEN = {"vit": {"mlp_ratio": 4.5}, "swin": {"mlp_ratio": 4.5}, "mixer": {"mlp_ratio": [1.0, 5.0]}}
WHOLE = ("tile", "mixture", "fpi", "aki", "two_source", "ligo")  # the others are asked for a width between
ON_IMAGES = ("ligo", "gradmax")
CLASSES = ("blue", "green", "red", "violet", "white")
EXACT, EPS, LOSSY, REFUSED = "exact", "exact up to eps", "lossy", "refused"
# What theory allows: whole multiples for all, off them BatchNorm networks by copies or blanks, pre-LayerNorm
# transformers up to eps, and nothing for ConvNeXt, MLP-Mixer (tokens are mixed channel by channel) and Swin's
# first stage. `gradmax` is asked for wider hidden layers, which ResNet, ConvNeXt and EfficientNet have no
# argument for; what else they widen is refused.
EXPECTED = {
    "tile": dict.fromkeys(FAMILIES, EXACT),
    "mixture": dict.fromkeys(FAMILIES, EXACT),
    "fpi": dict.fromkeys(FAMILIES, EXACT),
    "aki": dict.fromkeys(FAMILIES, LOSSY),
    "ligo": dict.fromkeys(FAMILIES, LOSSY),
    "random": dict.fromkeys(FAMILIES, LOSSY),
    "shrink_perturb": dict.fromkeys(FAMILIES, LOSSY),
    "gradmax": {**dict.fromkeys(FAMILIES, REFUSED), "vit": EXACT, "swin": EXACT, "mixer": EXACT},
    "two_source": {**dict.fromkeys(FAMILIES, LOSSY), "efficientnet": EXACT},
    "net2net": {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT},
    **{
        name: {**dict.fromkeys(FAMILIES, LOSSY), "resnet": EXACT, "efficientnet": EXACT, "vit": EPS}
        for name in ("centre_zero", "lemon", "zero", "variance_transfer")
    },
}


def plan(family: str, operator: str, folder: Path) -> dict[str, Any]:
    """The plan for an operator, with whatever else it needs in `folder`."""
    tiny, whole, between = FAMILIES[family]
    args = whole if operator in WHOLE else HIDDEN.get(family, between) if operator == "gradmax" else between
    found: dict[str, Any] = {"target": {"model_args": args}, "width": {"operator": operator}, "allow_lossy": True}
    found["verify"] = {"inputs": 4}  # how far logits move is told by more than shows whether they do
    if operator == "two_source":
        found["second"] = str(write_folder(tiny, folder / "second", seed=5))
    if operator in ON_IMAGES:
        images = write_images(folder / "images", per_class=2, classes=CLASSES)
        found["data"] = {"path": str(images), "batches": 1, "batch_size": 10}
    if operator == "ligo":
        found["width"]["steps"] = 2
    return found


def record(family: str, operator: str) -> dict[str, Any]:
    """The promise, how far the logits move (relative; with the eps told, where that is what is promised), a digest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_folder(FAMILIES[family][0], folder / "source")
        try:
            result = grown(source, plan(family, operator, folder), folder / "out")
        except PlanError:
            return {"promise": "refused"}
        assert result.proof is not None
        decisive = result.proof.with_eps or result.proof.comparison
        return {
            "promise": result.summary.promise,
            "difference": decisive.relative_difference,
            "digest": digest(result.out),
        }


def digest(folder: Path) -> list[float]:
    """Of all weights in order: their number, sum, sum of sizes, and sum after weighing each by its place."""
    weights = load_file(folder / "model.safetensors")
    numbers = torch.cat([weights[name].double().flatten() for name in sorted(weights)])
    ramp = torch.linspace(-1, 1, len(numbers), dtype=torch.float64)
    return [len(numbers), float(numbers.sum()), float(numbers.abs().sum()), float(numbers @ ramp)]


def measured(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """What `growtool explain` shows of it."""
    return {
        name: {family: {key: value for key, value in kept.items() if key != "digest"} for family, kept in rows.items()}
        for name, rows in found.items()
    }


if __name__ == "__main__":
    found = {name: {family: record(family, name) for family in FAMILIES} for name in WIDTH_OPERATORS}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    SHOWN.write_text(json.dumps(measured(found), indent=1) + "\n")
