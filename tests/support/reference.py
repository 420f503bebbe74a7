"""A state dict as the public MixtureGrowth reference saves one, and a plugin that names its layers."""

import timm
import torch

ARGS = {"layers": [1, 1, 1, 1], "channels": [4, 6, 6, 7], "num_classes": 3, "stem_type": "deep", "stem_width": 2}


LAYERS = {"layer2.0.conv2.weight": ("stages.1.conv_b", 3), "layer4.0.conv2.weight": ("stages.3.conv_b", 4)}


PLUGIN = """
import timm
from timm.models import register_model
from timm.models.resnet import ResNet, BasicBlock

@register_model
def {name}(pretrained=False, **kwargs):
    return timm.create_model("resnet18", pretrained=False, **{args})

REFERENCE_NAMES = {names}
"""


def reference():
    """A state dict as the reference would save the model, and the weights its layers stand for."""
    generator = torch.Generator().manual_seed(0)
    model = timm.create_model("resnet18", **ARGS)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items() if name not in LAYERS}
    whole = {}
    for name, (path, block) in LAYERS.items():
        size = model.state_dict()[name].shape[0]
        sets = [torch.randn(2 + s, block, block, 3, 3, generator=generator) for s in range(2)]
        vectors = [torch.randn(2 + m % 2, generator=generator) for m in range(4)]
        state |= {f"module.{path}.trainable_parameters.template_set_{s}": t for s, t in enumerate(sets)}
        state |= {f"module.{path}.coefficients.coefs_member_{m}": c for m, c in enumerate(vectors)}
        blocks = [torch.einsum("t,toikl->oikl", vectors[m], sets[m % 2]) for m in range(4)]
        rows = [torch.cat([blocks[0], blocks[2]], 1), torch.cat([blocks[3], blocks[1]], 1)]
        whole[name] = torch.cat(rows)[:size, :size]
    return state, whole
