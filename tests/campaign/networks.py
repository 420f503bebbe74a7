"""The networks of the campaign: the large one that everything is measured on, and those it may have grown from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.campaign.images import CLASSES, SIDE
from tests.support.models import write_initial


def _resnet(width: int, blocks: int) -> dict[str, Any]:
    stem = {"stem_type": "deep", "replace_stem_pool": True, "stem_width": width // 2}
    return {"channels": [width, 2 * width, 4 * width, 8 * width], "layers": [blocks] * 4, **stem}


def _vit(width: int, heads: int, depth: int) -> dict[str, Any]:
    return {"img_size": SIDE, "patch_size": 4, "embed_dim": width, "num_heads": heads, "depth": depth}


NETWORKS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "resnet": ("resnet18", {
        "large": _resnet(48, 2), "half": _resnet(24, 2), "one block": _resnet(48, 1), "both": _resnet(24, 1),
        "three quarters": _resnet(36, 2)}),
    "vit": ("vit_tiny_patch16_224", {
        "large": _vit(128, 4, 4), "half": _vit(64, 2, 4), "one block": _vit(128, 4, 1), "both": _vit(64, 2, 1),
        "three quarters": _vit(96, 3, 4)}),
}  # fmt: skip
"""Family -> timm's architecture, and the arguments of each size."""
TINY = {
    "resnet": {
        "large": _resnet(8, 2), "half": _resnet(4, 2), "one block": _resnet(8, 1), "both": _resnet(4, 1),
        "three quarters": _resnet(6, 2)},
    "vit": {
        "large": _vit(16, 4, 2), "half": _vit(8, 2, 2), "one block": _vit(16, 4, 1), "both": _vit(8, 2, 1),
        "three quarters": _vit(12, 3, 2)},
}  # fmt: skip
"""The same for trying the campaign out."""


def arguments_of(family: str, size: str, *, tiny: bool) -> dict[str, Any]:
    """What timm is given to build a network of the campaign."""
    return (TINY[family] if tiny else NETWORKS[family][1])[size]


def write_fresh(family: str, size: str, seed: int, out: Path, *, tiny: bool) -> Path:
    """A network as timm initialises it from a seed, as a folder; what is there stays."""
    if not (out / "model.safetensors").is_file():
        arguments = {**arguments_of(family, size, tiny=tiny), "num_classes": CLASSES}
        sized = {"input_size": (3, SIDE, SIDE)}
        write_initial(NETWORKS[family][0], arguments, out, pretrained_cfg=sized, seed=seed)
    return out
