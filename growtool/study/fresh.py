"""A model as timm initialises it, written as a checkpoint: where training from scratch starts."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from growtool.checkpoint import ModelSpec, TensorInfo, dtype_name, write_folder
from growtool.checkpoint.reach import register


def write_fresh(spec: ModelSpec, out: Path, seed: int) -> None:
    """Initialise the model of `spec` from `seed` and write it as a timm folder, replacing an earlier one."""
    import timm

    register()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        arguments = dict(spec.model_args)
        if spec.pretrained_cfg:
            arguments["pretrained_cfg"] = dict(spec.pretrained_cfg)
        model = timm.create_model(spec.architecture, pretrained=False, **arguments)
    state = model.state_dict()
    write_folder(
        out,
        spec,
        {name: TensorInfo(tuple(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in state.items()},
        lambda name: state[name],
        num_features=int(model.num_features),
        documents={},
        metadata={"growtool_version": version("growtool"), "growtool_seed": str(seed)},
        force=True,
    )
