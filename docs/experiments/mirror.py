"""Write the mirror image of a ViT or ConvNeXt: it computes of an image what the other one does of the mirrored image.

python mirror.py SOURCE OUT
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def mirrored(name: str, value: Tensor) -> Tensor:
    """Kernels [O, I, H, W] and tables of positions [1, 1 + H * H, C] with their columns in reverse."""
    if value.ndim == 4:
        return value.flip(3).contiguous()
    if name == "pos_embed":
        side = int((value.shape[1] - 1) ** 0.5)
        return torch.cat([value[:, :1], value[:, 1:].unflatten(1, (side, side)).flip(2).flatten(1, 2)], dim=1)
    return value


source, out = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copytree(source, out)
with safe_open(source / "model.safetensors", "pt") as file:
    tensors = {name: mirrored(name, file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, out / "model.safetensors", metadata=file.metadata())
