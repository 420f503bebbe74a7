"""The whole files that cases damage: tiny checkpoints of several kinds, plans, images, a finished run, a schedule."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from tests.support.finetune import CLASSES, PRETRAINED_CFG, write_data
from tests.support.models import TINY, Tiny, random_model, write_folder

from .child import command

RESNET = Tiny("resnet18", {"layers": [2, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": 3})
TRAINING = "--data data --steps 1 --batch-size 4 --workers 0 --device cpu".split()
LONGER = [*"--data data --steps 2 --batch-size 4 --workers 0 --device cpu --recovery-interval 1".split(), "--model-ema"]
PLANS = {
    "resnet.yaml": {
        "target": {"model_args": {"channels": [8, 16, 16, 24], "layers": [3, 1, 1, 1]}},
        "width": {"operator": "net2net", "gain": 1.0},
        "depth": {"operator": "zero_out"},
        "seed": 3,
        "allow_lossy": True,
    },
    "vit.yaml": {
        "model": "test_vit",
        "target": {"scale": {"width": 2, "depth": 2}},
        "width": {"operator": "mixture", "coefficients": "copy"},
        "overrides": [{"match": "head.*", "width": {"operator": "tile"}}],
        "depth": {"operator": "interleave"},
        "verify": {"inputs": 2},
        "output": {"dtype": "float32"},
        "allow_lossy": True,
    },
    "images.yaml": {
        "target": {"model_args": {"channels": [8, 16, 16, 24]}},
        "width": {"operator": "tile"},
        "data": {"path": "data", "batches": 1, "batch_size": 4},
        "recalibrate": True,
        "allow_lossy": True,
    },
    "short.yaml": {"target": {"scale": {"width": 2}}, "width": {"operator": "mixture"}, "allow_lossy": True},
    "run.yaml": {"data": "data", "epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu", "lr": 0.01, "mixup": 0.1},
    "schedule.yaml": {
        "checkpoint": "resnet",
        "train": {"data": "data", "batch_size": 4, "workers": 0, "device": "cpu"},
        "stages": [{"train": {"steps": 1}}, {"grow": "images.yaml"}],
    },
}
PLUGIN = """import timm
from timm.models import register_model

@register_model
def their_resnet(pretrained=False, **kwargs):
    return timm.create_model("resnet18", pretrained=False, layers=[1, 1, 1, 1], channels=[4, 6, 6, 7], num_classes=3)

REFERENCE_NAMES = {"layer4.0.conv2.weight": "stages.3.conv_b"}
"""


@contextlib.contextmanager
def workshop() -> Iterator[tuple[Path, Path]]:
    """A folder with all the material, and the path of another for what is made of it; both gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        material, place = Path(folder, "material"), Path(folder, "place")
        material.mkdir()
        write(material)
        yield material, place


def write(root: Path) -> None:
    """Fill `root` with everything that a case may start from.

    Raises:
        RuntimeError: one of growtool's commands failed on whole files.
    """
    write_folder(RESNET, root / "resnet", dtype=torch.float32)
    path = root / "resnet/config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"] |= {**PRETRAINED_CFG, "input_size": [3, 32, 32]}
    path.write_text(json.dumps(config | {"label_names": list(CLASSES)}))
    write_folder(TINY["vit"], root / "vit", dtype=torch.float32)
    write_data(root / "data", train=3, validation=2)
    for name, content in PLANS.items():
        (root / name).write_text(yaml.safe_dump(content))
    (root / "their.py").write_text(PLUGIN)
    torch.save({"state_dict": _reference()}, root / "model.pth")
    made = (
        ["grow", "resnet", "resnet.yaml", "-o", "grown"],
        ["grow", "vit", "vit.yaml", "-o", "vit.safetensors"],
        ["decompose", "vit", "-o", "templates"],
        ["decompose", "resnet", "-o", "shared.safetensors"],
        ["finetune", "resnet", *TRAINING, "-o", "run"],
        ["finetune", "resnet", *LONGER, "-o", "long"],
    )
    for words in made:
        done = command(words, root, root / ".seen")
        if done.code != 0:
            raise RuntimeError(f"growtool {' '.join(words)}: exit code {done.code}\n{done.text}")
    (root / ".seen").unlink()


def _reference() -> dict[str, torch.Tensor]:
    """A state dict as the public reference of MixtureGrowth names and shapes it."""
    args = {"layers": [1, 1, 1, 1], "channels": [4, 6, 6, 7], "num_classes": 3}
    state = random_model(Tiny("resnet18", args), dtype=torch.float32).state_dict()
    del state["layer4.0.conv2.weight"]
    at = "stages.3.conv_b"
    found = {f"module.{name}": tensor for name, tensor in state.items()}
    found |= {f"module.{at}.trainable_parameters.template_set_{s}": torch.randn(2 + s, 4, 4, 3, 3) for s in range(2)}
    return found | {f"module.{at}.coefficients.coefs_member_{m}": torch.randn(2 + m % 2) for m in range(4)}
