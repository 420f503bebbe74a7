"""Models of timm, saved by timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.models import save_for_hf
from torch import nn

from growtool.checkpoint import Checkpoint, open_checkpoint
from tests.support.models import randomise_


def saved(model: nn.Module, folder: Path, **model_args: Any) -> Path:
    """The folder, as timm saves the model to it."""
    save_for_hf(model, folder, model_args=model_args, safe_serialization=True)
    return folder


def tiny_vit(folder: Path) -> Checkpoint:
    """A trained-looking ViT of five classes for images of 160 pixels."""
    model = randomise_(timm.create_model("test_vit", num_classes=5).eval())
    return open_checkpoint(saved(model, folder, num_classes=5))
