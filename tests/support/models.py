"""Tiny timm models of many families with every number random, as modules and as timm folders in float64.

A freshly built model hides mistakes: its norms scale by one, its biases are zero, its LayerScale is tiny. Here every
parameter and every stored buffer is drawn anew, at a size that keeps signals alive through the whole network.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import Tensor, nn

from growtool.checkpoint import open_checkpoint
from growtool.growing import Grown, grow
from growtool.plan import LoadedPlan, load_plan
from growtool.recipe import Recipe, resolve


def random_images(size: tuple[int, ...], count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images [count, *size] as timm models are proven on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *size, generator=generator, dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Tiny:
    """A small model: its timm name, the constructor's arguments and the image size."""

    architecture: str
    args: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32

    def with_args(self, **args: Any) -> "Tiny":
        return replace(self, args={**self.args, **args})

    def create(self) -> nn.Module:
        """The model as timm initialises it, in eval mode; the global random state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return timm.create_model(
                self.architecture, pretrained_cfg_overlay={"input_size": (3, self.size, self.size)}, **self.args
            ).eval()

    def inputs(self, count: int = 2, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """Random images [count, 3, size, size]."""
        generator = torch.Generator().manual_seed(11)
        return torch.randn(count, 3, self.size, self.size, generator=generator, dtype=dtype)


def _vit(architecture: str = "test_vit", **args: Any) -> Tiny:
    small = {"img_size": 32, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}
    return Tiny(architecture, {**small, **args}, args.get("img_size", 32))


TINY: dict[str, Tiny] = {
    "vit": _vit(),
    "vit_scaled": _vit("vit_tiny_patch16_224", init_values=0.1, reg_tokens=1),
    "eva": _vit("eva02_tiny_patch14_224", img_size=28),
    "cait": _vit("cait_xxs24_224"),
    "xcit": _vit("xcit_nano_12_p16_224"),
    "resnet": Tiny("resnet18", {"layers": [2, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": 5}),
    "bottleneck": Tiny("resnet50", {"layers": [2, 1, 1, 1], "channels": [4, 4, 8, 8], "num_classes": 5}),
    "resnext": Tiny(
        "resnext50_32x4d",
        {"layers": [1, 2, 1, 1], "channels": [12] * 4, "cardinality": 2, "base_width": 32, "num_classes": 5},
    ),
    "convnext": Tiny("test_convnext", {"dims": [4, 6, 8, 8], "depths": [1, 2, 1, 1], "num_classes": 5}),
    "efficientnet": Tiny("test_efficientnet", {"num_classes": 5}),
    "mobilenetv3": Tiny("mobilenetv3_small_050", {"num_classes": 5}),
    "nfnet": Tiny("test_nfnet", {"depths": [2, 1, 1, 1], "channels": [8, 8, 16, 16], "num_classes": 5}),
    "maxvit": Tiny("test_maxvit", {"num_classes": 5}, 64),
    "swin": Tiny(
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "num_classes": 5},
    ),
    "levit": Tiny(
        "levit_128s",
        {"img_size": 64, "embed_dim": [16, 24, 32], "key_dim": 8, "num_heads": [2, 3, 4], "depth": [1, 1, 1],
         "num_classes": 5},
        64,
    ),
    "densenet": Tiny("densenet121", {"growth_rate": 4, "block_config": [2, 2], "num_classes": 5}),
}  # fmt: skip


# Arguments that double every width that the constructor lets grow, heads by number.
WIDER: dict[str, Mapping[str, Any]] = {
    "vit": {"embed_dim": 16, "num_heads": 4},
    "vit_scaled": {"embed_dim": 16, "num_heads": 4},
    "eva": {"embed_dim": 16, "num_heads": 4},
    "cait": {"embed_dim": 16, "num_heads": 4},
    "xcit": {"embed_dim": 16, "num_heads": 4},
    "resnet": {"channels": [8, 16, 16, 24]},
    "bottleneck": {"channels": [8, 8, 16, 16]},
    "resnext": {"channels": [24] * 4},
    "convnext": {"dims": [8, 12, 16, 16]},
    "swin": {"embed_dim": 16, "num_heads": [4, 4]},
    "levit": {"embed_dim": [32, 48, 64], "num_heads": [4, 6, 8]},
    "densenet": {"growth_rate": 8},
    "nfnet": {"channels": [16, 16, 32, 32]},
}


@torch.no_grad()
def randomise_(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Draw every parameter and every stored floating-point buffer anew, in the type of the model.

    Matrices keep the size of what they map, vectors scatter about 1 where they scale and about 0 where they shift.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {f"{name}.weight" for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.ndim >= 2:
            tensor.copy_(noise * 1.5 / math.sqrt(max(tensor[0].numel(), 1)))
        else:
            tensor.copy_(noise * 0.3 + float(name in scales or name.rsplit(".", 1)[-1].startswith(("gamma", "skip"))))
    return model


def random_model(tiny: Tiny, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A tiny model with every number random."""
    return randomise_(tiny.create().to(dtype), seed=seed)


def write_initial(
    name: str, args: Mapping[str, Any], folder: Path, *, pretrained_cfg: Mapping[str, Any], seed: int = 0
) -> Path:
    """A model as timm initialises it from a seed, and saves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained_cfg_overlay=dict(pretrained_cfg), **args)
    return saved(model, folder, **args)


def saved(model: nn.Module, folder: Path, **model_args: Any) -> Path:
    """The folder, as timm saves the model to it."""
    save_for_hf(model, folder, model_args=model_args, safe_serialization=True)
    return folder


def write_folder(tiny: Tiny, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Path:
    """A random model as timm itself saves it."""
    model = random_model(tiny, seed=seed, dtype=dtype)
    saved(model, folder, **tiny.args)
    config = json.loads((folder / "config.json").read_text())  # timm writes the name of what `growtool_open` opened
    (folder / "config.json").write_text(json.dumps(config | {"architecture": tiny.architecture}))
    return folder


def load(folder: Path) -> nn.Module:
    """The float64 model of a folder. (Where timm reads the weights itself, they are rounded to float32 first.)"""
    model = timm.create_model(f"local-dir:{folder}", pretrained=False).double().eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model


def plan_of(folder: Path, content: Mapping[str, Any]) -> LoadedPlan:
    """A plan, by way of its file."""
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(dict(content)))
    return load_plan(path)


def resolved(source: Path, content: Mapping[str, Any]) -> Recipe:
    """The recipe of a plan for a folder."""
    return resolve(plan_of(source.parent, content).plan, open_checkpoint(source))


def grown(source: Path, content: Mapping[str, Any], out: Path, **options: Any) -> Grown:
    """Grow a folder by a plan."""
    loaded = plan_of(source.parent, content)
    return grow(resolve(loaded.plan, open_checkpoint(source)), loaded, out, **options)


@torch.no_grad()
def difference(source: nn.Module, target: nn.Module, inputs: Tensor) -> float:
    """max|a - b| / max|a| of the logits, after making sure that the inputs decide them at all."""
    a, b = source(inputs), target(inputs)
    assert a.shape == b.shape
    scale = float(a.abs().max())
    assert float((a[0] - a[1]).abs().max()) > 1e-3 * scale, "logits that ignore the image prove nothing"
    return float((a - b).abs().max()) / scale


TINY_RESNET = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": 5}
